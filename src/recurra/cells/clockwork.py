"""Units that move at clocks of their own."""

from recurra.cells.initial import periods, slower_modules
from recurra.cells.language import Bias, Fixed, Input, Recurrent, State, equal, tanh, where
from recurra.cells.registry import cell, register
from recurra.program.widths import SCALAR


@cell
def clockwork_rnn(
    x,
    h,
    t=State(SCALAR, joint=True),
    *,
    modules=4,
    W=Input(),
    U=Recurrent(),
    b=Bias(),
    mask=Fixed(Recurrent(initial=slower_modules("modules"))),
    period=Fixed(Bias(initial=periods("modules"))),
):
    """Clockwork network (Koutnik et al. 2014), section 3: a unit moves at multiples of its module's period 1, 2, 4, ...
    only, and reads modules that are as slow or slower."""
    moved = tanh(W @ x + (mask * U) @ h + b)
    return where(equal(t % period, 0), moved, h), (t + 1) % 2.0**modules


register(clockwork_rnn)
