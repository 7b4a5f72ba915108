"""What happens during a run besides training: recording, stopping, and keeping what must not be lost."""

import hashlib
import io
import signal
import threading
import time
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType, TracebackType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import CheckpointIO

from recurra.checkpoint import save_weights, write_atomically
from recurra.errors import FormatError
from recurra.learn.module import Training
from recurra.learn.run import VALIDATION_LOSS, Run

_DIGEST_SIZE = hashlib.sha256().digest_size


class Record(Callback):
    """Writes the training loss into the logs at every so many updates, and finds out when it is no number any more."""

    def __init__(self, *, every: int) -> None:
        self._every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record when it is time."""
        assert isinstance(pl_module, Training)
        if trainer.global_step % self._every == 0 or trainer.should_stop:
            loss = pl_module.mean_loss()
            if loss is not None:
                pl_module.record({"learning_rate": pl_module.learning_rate, "train_loss": loss})


class Interrupts:
    """While in this context, Ctrl-C and SIGTERM ask for an orderly end; a second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.received = False
        self._insisted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        # Signals reach the main thread only, and only there may one ask for them.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self.watch()
        return self

    def watch(self) -> None:
        """Take the signals, also from Lightning, whose own answer to SIGTERM ends a run where it cannot be saved."""
        for number in self._previous:
            signal.signal(number, self._receive)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        # Lightning makes an exit with code 1 of a KeyboardInterrupt.
        if self._insisted and isinstance(error, SystemExit):
            raise KeyboardInterrupt from None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            self._insisted = True
            raise KeyboardInterrupt
        self.received = True


class Limits(Callback):
    """Ends the run when its steps or its time are used up, or when it is interrupted."""

    def __init__(self, interrupts: Interrupts, *, validate_every: int | None) -> None:
        self._interrupts = interrupts
        self._validate_every = validate_every
        self.finished = False
        """Whether the run has used up its steps or its time."""
        self.interrupted = False
        """Whether someone ended it before."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing more in a run that was over when it was resumed."""
        self._interrupts.watch()
        assert isinstance(pl_module, Training)
        if pl_module.budget.is_over(trainer.global_step):
            self.finished = trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock and at what came in."""
        assert isinstance(pl_module, Training)
        step = trainer.global_step
        if pl_module.budget.is_over(step):
            self.finished = trainer.should_stop = True
        elif self._interrupts.received and self.may_pause_after(step):
            self.interrupted = trainer.should_stop = True

    def may_pause_after(self, step: int) -> bool:
        """Whether a run may be left after this step and go on from there exactly.

        A validation that is due would be left out, and Lightning does not make up for it.
        """
        return self._validate_every is None or step % self._validate_every != 0


class StopEarly(EarlyStopping):
    """Ends the run when the validation loss has not fallen for so many times in a row."""

    def __init__(self, *, patience: int) -> None:
        super().__init__(VALIDATION_LOSS, patience=patience, check_finite=False, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was counted, with the patience of now."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing more in a run that had ended so when it was resumed."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class BestWeights(Checkpoint):
    """Writes `weights.safetensors` each time that the validation loss is the lowest so far.

    The validation after an interrupt is none of the run's own, and a resumed run must not know of it: the weights
    before it are set aside, and come back when the run goes on.
    """

    def __init__(self, run: Run, limits: Limits) -> None:
        self._run = run
        self._limits = limits
        self.best: float | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare and keep."""
        assert isinstance(pl_module, Training)
        loss = pl_module.validation_loss
        assert loss is not None
        if self.best is not None and loss >= self.best:
            return
        if self._limits.interrupted:
            self._run.set_weights_aside()
        self.best = loss
        keep_weights(self._run, pl_module, validation_loss=loss)

    def state_dict(self) -> dict[str, Any]:
        """The lowest loss so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from it."""
        self.best = state_dict["best"]


class SaveState(Checkpoint):
    """Writes `trainer.ckpt` from time to time and at the end, and the weights too in a run without validation."""

    def __init__(self, run: Run, limits: Limits, *, every: float) -> None:
        self._run = run
        self._limits = limits
        self._every = every
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time."""
        assert isinstance(pl_module, Training)
        due = time.monotonic() - self._last >= self._every or trainer.should_stop or trainer.received_sigterm
        if self._limits.finished or (due and self._limits.may_pause_after(trainer.global_step)):
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the last validation has changed, and a run that it has ended early."""
        assert isinstance(pl_module, Training)
        if not self._limits.interrupted:
            self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, training: Training) -> None:
        training.check_finite()
        if training.validation is None:
            keep_weights(self._run, training, validation_loss=None)
        trainer.save_checkpoint(self._run.trainer_state)
        self._last = time.monotonic()


class AtomicFiles(CheckpointIO):
    """Writes Lightning's checkpoints beside their place and renames them; reads them without unpickling any object.

    A file is what torch saves, then the SHA-256 of that.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint. Raises OSError when it cannot be; an earlier one is intact."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        write_atomically(Path(path), content + hashlib.sha256(content).digest())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint, on the CPU. Raises FormatError when it is damaged."""
        file = Path(path).read_bytes()
        content, digest = file[:-_DIGEST_SIZE], file[-_DIGEST_SIZE:]
        if hashlib.sha256(content).digest() != digest:
            raise FormatError(
                f"{str(path)!r} is truncated or damaged",
                advice="Begin the run again in another folder; the weights in this one may still be good.",
            )
        try:
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except UnpicklingError:
            raise FormatError(f"{str(path)!r} holds objects that are no plain data; it was not written here") from None
        return dict(checkpoint)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file."""
        Path(path).unlink()


def keep_weights(run: Run, training: Training, *, validation_loss: float | None) -> None:
    """Write `weights.safetensors`, with the step and the loss in it."""
    about = {"step": str(training.trainer.global_step)}
    if validation_loss is not None:
        about[VALIDATION_LOSS] = repr(validation_loss)
    save_weights(run.folder, training.model.state_dict(), about)
