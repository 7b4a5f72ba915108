"""Decoding: from a model's next-token scores to tokens and to text. Pure functions of a step, and of a stream."""

from recurra.decode.sampling import Picker, Step, drawn, generate, likeliest
from recurra.decode.text import Reader, continued

__all__ = ["Picker", "Reader", "Step", "continued", "drawn", "generate", "likeliest"]
