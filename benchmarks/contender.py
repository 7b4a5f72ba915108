"""One of those that train side by side: a process that trains as `recurra train` does, a few updates at a time."""

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from step_parts import Parts
from torch import Tensor
from torch_layers import disturb, on_torch

from recurra import engine
from recurra.data import parse_split
from recurra.learn.fit import fit
from recurra.learn.language_model import build_model, open_corpus
from recurra.learn.log import read_log
from recurra.learn.module import Training
from recurra.learn.run import VALIDATION_LOSS, About, Run
from recurra.learn.settings import Settings

RECURRA, TORCH, DISTURBED = "recurra", "torch.nn", "torch.nn disturbed"


@dataclass(frozen=True)
class Report:
    """What a contender measured, at its end. Seconds are those of its own turns, without waiting."""

    losses: list[float]
    """Nats a token of each update's chunk, before the update."""
    seconds: list[float]
    """When each update was done."""
    validations: dict[int, float]
    """Nats a token by the update after which the validation part was scored."""
    parts: dict[str, float]
    """Seconds of the whole run by part."""
    engine: dict[str, float] = field(default_factory=dict)
    """Seconds within the engine by its own parts, without validation; empty for those who do not use it."""


class Turns(Callback):
    """Waits for its turn before each `updates` updates, and measures only what happens in its turns."""

    def __init__(self, connection: Connection, updates: int, *, profile_engine: bool) -> None:
        self._connection = connection
        self._updates = updates
        self._profile_engine = profile_engine
        self._parts: Parts | None = None
        self._losses: list[Tensor] = []
        self._seconds: list[float] = []
        self._engine: dict[str, float] = {}
        self._spent = 0.0
        self._turn_began: float | None = None
        self._step = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to tell the parts apart."""
        assert isinstance(pl_module, Training)
        # Lightning takes a profiler from its constructor only; it looks it up anew each time
        self._parts = Parts(trainer, pl_module.model)
        setattr(trainer, "profiler", self._parts)  # noqa: B010 - its type says that there is only a constructor

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Wait, when the turn is over."""
        if trainer.global_step % self._updates == 0:
            self._wait()
        if self._profile_engine:
            self._step.enter_context(_added_to(self._engine))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss and the time."""
        self._step.close()
        assert self._turn_began is not None
        self._losses.append(outputs["loss"])
        self._seconds.append(self._spent + time.perf_counter() - self._turn_began)

    def _wait(self) -> None:
        self._end_turn()
        self._connection.recv()
        self._turn_began = time.perf_counter()
        assert self._parts is not None
        self._parts.restart()

    def _end_turn(self) -> None:
        taken = 0.0 if self._turn_began is None else time.perf_counter() - self._turn_began
        self._spent += taken
        self._connection.send(taken)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The end of the last turn, with what training did after its last update."""
        self._end_turn()

    def report(self, run: Run) -> Report:
        """All that was measured."""
        assert self._parts is not None
        scored = {int(row["step"]): row[VALIDATION_LOSS] for row in read_log(run.log) if VALIDATION_LOSS in row}
        losses = [loss.item() for loss in self._losses]
        return Report(losses, self._seconds, scored, self._parts.seconds, self._engine)


@contextmanager
def _added_to(total: dict[str, float]) -> Iterator[None]:
    with engine.profiled() as seconds:
        yield
    for name, value in seconds.items():
        total[name] = total.get(name, 0.0) + value


def contend(who: str, connection: Connection, settings: Settings, folder: Path, turn: int, *, double: bool) -> None:
    """Train a new run in the folder, in turns that the other end of the connection allows.

    Sends the seconds of each turn (at first 0: ready), then a `Report`.
    """
    torch.set_num_threads(settings.threads or 1)
    torch.manual_seed(settings.seed)
    corpus = open_corpus(settings)
    parts = corpus.split(parse_split(settings.split))
    model = build_model(settings, parts)
    if who != RECURRA:
        model = on_torch(model)
    if double:
        model.double()
    if who == DISTURBED:
        disturb(model)
    # the masks of dropout are the same for both, whatever was drawn before
    torch.manual_seed(settings.seed)
    run = Run(folder)
    run.begin(settings, About(corpus.source, corpus.fingerprint()))
    turns = Turns(connection, turn, profile_engine=who == RECURRA and not engine.missing())
    fit(run, settings, model, parts, resume=False, console=Console(file=io.StringIO()), watching=[turns])
    connection.send(turns.report(run))
