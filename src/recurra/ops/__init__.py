"""The torch face of the engine: one op over a batch of sequences, held equal to a plain-torch reference.

recurrence  scan and step, what layers call
select      which backend runs, and why
autograd    the op as torch sees it: shapes, gradients, autocast
stepping    a step past torch's dispatcher
mixed       mixed precision under autocast
segments    long sequences, recomputed between the states that are kept
native      the engine on CPU tensors
reference   any program in plain torch, on any device
arguments   the checks at the border
"""

from recurra.ops.mixed import emulated_bfloat16 as emulated_bfloat16
from recurra.ops.recurrence import scan as scan
from recurra.ops.recurrence import step as step
from recurra.ops.segments import recompute as recompute
from recurra.ops.select import Backends as Backends
from recurra.ops.select import RecurraBackendWarning as RecurraBackendWarning
from recurra.ops.select import backend as backend
from recurra.ops.select import backends as backends
