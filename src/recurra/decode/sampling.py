"""Generate tokens one after another: always the likeliest, or drawn at random."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError

State = TypeVar("State")
Step = Callable[[int, State], tuple[NDArray[np.floating], State]]
"""`step(token, state) -> (scores, state)`: reads a token; scores, shape (tokens,), are the next token's log odds."""
Picker = Callable[[NDArray[np.floating]], int]
"""Chooses a token by its scores, shape (tokens,); a score of minus infinity is never chosen."""


def likeliest(scores: NDArray[np.floating]) -> int:
    """The token with the highest score; the first of equals."""
    return int(np.argmax(scores))


def drawn(*, temperature: float, seed: int, top_k: int | None = None) -> Picker:
    """A picker that draws from softmax(scores / temperature), the same tokens for the same seed.

    Args:
        temperature: below 1 for safer text, above 1 for wilder text; 0 is `likeliest`.
        seed: of the random numbers; 0 or more.
        top_k: draw from so many of the likeliest tokens only; None for all of them.

    Raises:
        ArgumentError: a negative or infinite temperature, a negative seed, or a `top_k` below 1.
    """
    if not 0 <= temperature < np.inf:
        raise ArgumentError("the temperature", got=temperature, expected="a number from 0 on, such as 0.8")
    if seed < 0:
        raise ArgumentError("the seed", got=seed, expected="0 or more")
    if top_k is not None and top_k < 1:
        raise ArgumentError("top_k", got=top_k, expected="1 or more")
    if temperature == 0:
        return likeliest
    generator = np.random.default_rng(seed)

    def pick(scores: NDArray[np.floating]) -> int:
        scores = np.asarray(scores, dtype=np.float64)
        if top_k is not None and top_k < len(scores):
            scores = np.where(scores >= np.partition(scores, -top_k)[-top_k], scores, -np.inf)
        # The largest of scores with Gumbel noise is a draw from their softmax; nothing can overflow.
        return int(np.argmax(scores / temperature + generator.gumbel(size=len(scores))))

    return pick


def generate(step: Step[State], state: State, prompt: list[int], pick: Picker, *, length: int) -> Iterator[int]:
    """Read the prompt, then yield `length` tokens, each as soon as it is chosen and then read in its turn.

    Raises:
        ArgumentError: an empty prompt, for there is nothing to continue then.
    """
    if not prompt:
        raise ArgumentError("the prompt has no tokens", advice="Begin with the reserved one.")
    return islice(_endless(step, state, prompt, pick), length)


def _endless(step: Step[State], state: State, prompt: list[int], pick: Picker) -> Iterator[int]:
    for token in prompt[:-1]:
        _, state = step(token, state)
    token = prompt[-1]
    while True:
        scores, state = step(token, state)
        token = pick(scores)
        yield token
