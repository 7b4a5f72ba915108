"""Decoding: from a model's next-token scores to tokens. Pure functions of a step."""

from recurra.decode.sampling import Picker, Step, drawn, generate, likeliest

__all__ = ["Picker", "Step", "drawn", "generate", "likeliest"]
