"""The small language that cells are written in: trace, differentiate, simplify, compile. No torch."""

from recurra.program.program import Program as Program
from recurra.program.widths import ParameterSpec as ParameterSpec
from recurra.program.widths import StateSpec as StateSpec
from recurra.program.widths import Width as Width
