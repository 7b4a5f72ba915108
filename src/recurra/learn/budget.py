"""How long a run lasts, and the learning rate along the way."""

import math
import time


class Budget:
    """How much of a run is over: by steps, by time, or by whichever is further.

    Time counts from `begin` on, with what earlier parts of a resumed run have spent.
    """

    def __init__(self, *, steps: int | None, seconds: float | None) -> None:
        self.steps = steps
        self.seconds = seconds
        self.spent_before = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of training so far."""
        return self.spent_before + (time.monotonic() - self._began if self._began is not None else 0.0)

    def fraction(self, step: float) -> float:
        """Between 0 at the beginning and 1 at the end."""
        by_steps = step / self.steps if self.steps is not None else 0.0
        by_time = self.spent / self.seconds if self.seconds is not None else 0.0
        return min(1.0, max(by_steps, by_time))

    def is_over(self, step: int) -> bool:
        """Whether the run ends after so many steps, or by now."""
        return self.fraction(step) >= 1.0

    def which(self, step: int) -> str:
        """What ended a run after so many steps: "steps" or "time"."""
        return "steps" if self.steps is not None and step >= self.steps else "time"

    def seconds_left(self, step: int) -> float:
        """A forecast, by the speed so far."""
        fraction = self.fraction(step)
        return math.inf if fraction == 0 else self.spent * (1 - fraction) / fraction


def learning_rate_factor(fraction: float, *, warm_up: float, decay: str) -> float:
    """What the learning rate is multiplied by when this fraction of the run is over.

    It rises linearly during the warm-up, then falls along half a cosine to zero ("cosine"; Loshchilov and Hutter 2017)
    or stays ("none").
    """
    if fraction < warm_up:
        return fraction / warm_up
    if decay == "none":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (fraction - warm_up) / (1 - warm_up)))
