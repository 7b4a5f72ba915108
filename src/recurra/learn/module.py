"""The LightningModule: truncated backpropagation through time with the state carried from chunk to chunk."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from recurra.data import Chunk, Rows, TrainingChunks
from recurra.errors import ArgumentError
from recurra.learn.budget import Budget, learning_rate_factor
from recurra.learn.run import VALIDATION_LOSS
from recurra.learn.settings import Settings
from recurra.nn import map_state
from recurra.nn.layer import State
from recurra.nn.state import state_tensors
from recurra.ops.mixed import float32_reason
from recurra.tasks import LanguageModel
from recurra.tasks.language_model import as_tensors

_STEPS_OF_A_VALIDATION_CHUNK = 256
_CPU = torch.device("cpu")


class DivergedError(ArgumentError):
    """The loss is no longer a finite number; the settings, the learning rate above all, do not suit the data."""


def _diverged(step: int, what: str) -> DivergedError:
    advice = "Try a lower learning rate, such as --set learning_rate=0.001."
    return DivergedError(f"training diverged by step {step}: {what}", advice=advice)


class Training(LightningModule):
    """A language model in training.

    Args:
        model: trained in place.
        settings: the optimizer and its learning rate are read from here.
        chunks: of the training part.
        validation: the reading of the validation part; None to do without.
        budget: how far the run has come.
    """

    def __init__(
        self, model: LanguageModel, settings: Settings, chunks: TrainingChunks, validation: Rows | None, budget: Budget
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.chunks = chunks
        self.validation = validation
        self.budget = budget
        self.float32_reason = ""
        """Why the mixed precision that was asked for would gain nothing here."""
        if settings.precision == "bfloat16" and settings.device == "cpu":
            self.float32_reason = float32_reason(settings.device, torch.bfloat16)
        self._mixed = settings.precision == "bfloat16" and not self.float32_reason
        self._carried: State | None = None
        self._restored: dict[str, Any] | None = None
        self._nats = torch.zeros((), dtype=torch.float64)
        self._counted = 0
        self._validation_carried: State | None = None
        self._validation_nats = 0.0
        self.validation_loss: float | None = None
        """What the validation part was scored last, in nats a token."""
        self.validated_at: int | None = None
        """The step after which the validation part was scored last, in this process."""

    def train_dataloader(self) -> "_Chunks":
        """The chunks from where the run stands on. Each depends on its number only, so nothing is to be restored."""
        return _Chunks(self.chunks, self.trainer.global_step)

    def val_dataloader(self) -> "_Reading":
        """The validation part, in chunks."""
        assert self.validation is not None
        return _Reading(self.validation)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of the settings; biases do not decay."""
        settings = self.settings
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        rate = settings.learning_rate
        if settings.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, fused=True)
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=rate, betas=(settings.momentum, 0.999), fused=True)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        # In the middle of the update that it is for: neither the first nor the last one is wasted.
        fraction = self.budget.fraction(self.trainer.global_step + 0.5)
        factor = learning_rate_factor(fraction, warm_up=self.settings.warm_up, decay=self.settings.decay)
        return self.settings.learning_rate * factor

    def on_train_start(self) -> None:
        """Go on from what was restored, or begin."""
        self._nats = self._nats.to(self.device)
        if self._restored is not None:
            restored, self._restored = self._restored, None
            template = iter(restored["carried"])
            self._carried = map_state(lambda _: next(template).to(self.device), self.model.initial_state(1))
            self._nats.fill_(restored["nats"])
            self._counted = restored["counted"]
            # Last, so that nothing draws between this and the first step.
            torch.set_rng_state(restored["random"])
            # a run that was saved on the CPU has none
            if self.device.type == "cuda" and restored["random_of_device"] is not None:
                torch.cuda.set_rng_state(restored["random_of_device"], self.device)
        self.budget.begin()

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Set the learning rate."""
        rate = self.learning_rate
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor | None], batch_idx: int) -> Tensor:
        """The mean cross-entropy of a chunk; the state goes on to the next, the gradient does not."""
        inputs, targets, reset = batch
        # not by Lightning, which clips no gradients of a fused optimizer then
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._mixed):
            nats, state = self.model.loss(inputs, targets, self._carried, reset)
        self._carried = map_state(Tensor.detach, state)
        self._nats += nats.detach()
        self._counted += targets.numel()
        return nats / targets.numel()

    def mean_loss(self) -> float | None:
        """Nats a token since the last call; None if nothing was read since. Raises as `check_finite` does."""
        if not self._counted:
            return None
        self.check_finite()
        mean = self._nats.item() / self._counted
        self._nats.zero_()
        self._counted = 0
        return mean

    def check_finite(self) -> None:
        """Look at the losses since the last `mean_loss`.

        Raises:
            DivergedError: one of them is infinite or not a number.
        """
        if not math.isfinite(self._nats.item()):
            raise _diverged(self.trainer.global_step, f"the loss is {self._nats.item()}")

    def record(self, measured: dict[str, float]) -> None:
        """Write a row into every log."""
        for logger in self.loggers:
            logger.log_metrics({"seconds": self.budget.spent, **measured}, step=self.trainer.global_step)

    def on_validation_epoch_start(self) -> None:
        """Begin to read."""
        self._validation_carried = None
        self._validation_nats = 0.0

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor | None], batch_idx: int) -> None:
        """Score a chunk; the state goes on to the next."""
        inputs, targets, reset = batch
        nats, self._validation_carried = self.model.loss(inputs, targets, self._validation_carried, reset)
        self._validation_nats += nats.item()

    def on_validation_epoch_end(self) -> None:
        """Report nats a token."""
        assert self.validation is not None
        loss = self.validation_loss = self._validation_nats / self.validation.predicted
        if not math.isfinite(loss):
            raise _diverged(self.trainer.global_step, f"the validation loss is {loss}")
        # Lightning would count the step of this row from 0.
        self.log(VALIDATION_LOSS, loss, logger=False)
        self.record({VALIDATION_LOSS: loss})
        self.validated_at = self.trainer.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know of; tensors and plain values only."""
        checkpoint["recurra"] = {
            "carried": state_tensors(self._carried) if self._carried is not None else [],
            "nats": self._nats.item(),
            "counted": self._counted,
            "spent": self.budget.spent,
            "random": torch.get_rng_state(),
            "random_of_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added."""
        self._restored = checkpoint["recurra"]
        self.budget.spent_before = checkpoint["recurra"]["spent"]


class _Chunks:
    """The training chunks as tensors, without end."""

    def __init__(self, chunks: TrainingChunks, first: int) -> None:
        self._chunks = chunks
        self._first = first

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        return map(_on_cpu, self._chunks.since(self._first))


class _Reading:
    """The chunks of the validation part as tensors."""

    def __init__(self, rows: Rows) -> None:
        self._chunks = rows.chunks(_STEPS_OF_A_VALIDATION_CHUNK)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        return map(_on_cpu, self._chunks)

    def __len__(self) -> int:
        return len(self._chunks)


def _on_cpu(chunk: Chunk) -> tuple[Tensor, Tensor, Tensor | None]:
    return as_tensors(chunk, _CPU)
