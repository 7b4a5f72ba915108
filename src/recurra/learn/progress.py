"""How a run is going: a bar in a terminal, plain lines elsewhere."""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from torch import Tensor

from recurra.learn.callbacks import BestWeights
from recurra.learn.module import Training

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_UPDATES = 0.5


class RunProgress(ProgressBar):
    """Loss in bits a character, characters a second, and the time left.

    Args:
        console: where to write; a bar is drawn if it is a terminal.
        characters_a_token: of the training and of the validation part.
    """

    def __init__(self, console: Console, *, characters_a_token: tuple[float, float]) -> None:
        super().__init__()
        self._console = console
        self._characters_a_token = characters_a_token
        self._bar: Progress | None = None
        self._enabled = True
        self._shown = (0.0, 0)
        self._nats: Tensor | None = None
        self._validating = 0.0
        self._lowest = math.inf

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Show something again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Write a line, above the bar if there is one."""
        if self._enabled:
            self._console.print(*args, **kwargs, highlight=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar."""
        self._shown = (time.monotonic(), trainer.global_step)
        for one in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(one, BestWeights) and one.best is not None:
                self._lowest = one.best
        if self._console.is_terminal and self._enabled:
            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[status]}"))
            self._bar = Progress(*columns, console=self._console, refresh_per_second=2, transient=True)
            self._bar.add_task("", total=1.0, status="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show how far the run is, now and then."""
        loss = outputs["loss"].detach()
        nats = self._nats = loss if self._nats is None else self._nats + loss
        now = time.monotonic()
        since, step_then = self._shown
        wait = _SECONDS_BETWEEN_UPDATES if self._bar is not None else _SECONDS_BETWEEN_LINES
        if now - since < wait:
            return
        assert isinstance(pl_module, Training)
        step = trainer.global_step
        self._shown = (now, step)
        mean, self._nats = nats.item() / (step - step_then), None
        chunks = pl_module.chunks
        speed = (step - step_then) * chunks.rows * chunks.steps * self._characters_a_token[0] / (now - since)
        status = f"{self._bits(mean, 0)}  {speed:,.0f} chars/s  {_left(pl_module, step)} left"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=pl_module.budget.fraction(step), status=status)
        else:
            self.print(f"{_percent(pl_module, step)}  step {step:>6}  {status}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: the speed is that of training."""
        self._validating = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the validation loss."""
        assert isinstance(pl_module, Training)
        since, step_then = self._shown
        self._shown = (since + time.monotonic() - self._validating, step_then)
        loss = pl_module.validation_loss
        assert loss is not None
        best = "  (the lowest so far)" if loss < self._lowest else ""
        self._lowest = min(loss, self._lowest)
        step = trainer.global_step
        self.print(f"{_percent(pl_module, step)}  step {step:>6}  validation {self._bits(loss, 1)}{best}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _bits(self, nats_a_token: float, part: int) -> str:
        return f"{nats_a_token / math.log(2) / self._characters_a_token[part]:.3f} bits/char"


def _percent(training: Training, step: int) -> str:
    return f"{100 * training.budget.fraction(step):3.0f} %"


def _left(training: Training, step: int) -> str:
    seconds = training.budget.seconds_left(step)
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
