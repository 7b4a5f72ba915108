"""One run on Lightning: train within a budget, validate, keep the best and what is needed to go on, draw the losses."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from recurra.data import Document, Parts, Rows, TrainingChunks, sampled_rows
from recurra.learn.budget import Budget
from recurra.learn.callbacks import (
    AtomicFiles,
    BestWeights,
    Interrupts,
    Limits,
    Record,
    SaveState,
    StopEarly,
    keep_weights,
)
from recurra.learn.log import CsvLog
from recurra.learn.module import Training
from recurra.learn.plot import plot_losses
from recurra.learn.progress import RunProgress
from recurra.learn.run import Run
from recurra.learn.settings import Settings
from recurra.tasks import LanguageModel

# Rows that the validation part is read in during training, and how far each reads before it is scored.
_VALIDATION_ROWS = 32
_WARM_UP = 256


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    ended: str
    """"steps", "time", "early" (the validation loss fell no more) or "interrupted"."""
    steps: int
    seconds: float
    already: bool = False
    """Whether it had ended before, so that nothing was done now."""


def fit(
    run: Run,
    settings: Settings,
    model: LanguageModel,
    parts: Parts,
    *,
    resume: bool,
    console: Console,
    watching: Sequence[Callback] = (),
) -> Result:
    """Train the model in place and fill the folder of its run, which has begun (`Run.begin`).

    Args:
        run: where to write.
        settings: how to train; what they say about the data and the model is not read here.
        model: any language model, also of layers that cannot be saved as data.
        parts: the text.
        resume: go on from the run's `trainer.ckpt`.
        console: where to report.
        watching: callbacks of Lightning that are told what happens, too.

    Raises:
        FormatError: `trainer.ckpt` is damaged.
        DivergedError: the loss is no number any more; what was saved before is intact.
        OSError: something cannot be written; what was saved before is intact.
    """
    training = _training(settings, model, parts)
    # At least 2, so that there is a step between two validations after which the run can be left.
    validate_every = None if settings.steps is None else max(2, -(-settings.steps // settings.validations))
    run.take_weights_back()
    with Interrupts() as interrupts, warnings.catch_warnings():
        # Lightning 2.6 looks at torch's tree specifications in a way that torch 2.13 warns of, at every start.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        limits = Limits(interrupts, validate_every=validate_every)
        progress = RunProgress(console, characters_a_token=_characters_a_token(model, parts))
        record = Record(every=settings.log_every)
        callbacks = [*watching, limits, record, progress, SaveState(run, limits, every=settings.save_every)]
        if training.validation is not None:
            callbacks += [StopEarly(patience=settings.patience), BestWeights(run, limits)]
        if training.float32_reason:
            console.print(f"precision float32, for {training.float32_reason}", highlight=False)
        log = CsvLog(run.log, after=AtomicFiles().load_checkpoint(run.trainer_state)["global_step"] if resume else 0)
        if log.damaged:
            console.print(f"log     {log.damaged} damaged rows dropped", highlight=False)
        trainer = _trainer(run, settings, callbacks, log, validate_every)
        try:
            trainer.fit(training, ckpt_path=run.trainer_state if resume else None, weights_only=True)
        except SIGTERMException:
            limits.interrupted = True
        if not limits.interrupted and training.validation is not None and training.validated_at != trainer.global_step:
            # Killed between the last update and its validation, and now resumed.
            trainer.validate(training, verbose=False)
    if not run.weights.exists():
        keep_weights(run, training, validation_loss=None)
    if limits.interrupted:
        ended = "interrupted"
    else:
        ended = training.budget.which(trainer.global_step) if limits.finished else "early"
    return _finish(run, Result(run.folder, ended, trainer.global_step, training.budget.spent))


def _training(settings: Settings, model: LanguageModel, parts: Parts) -> Training:
    chunks = TrainingChunks(
        model.token_stream(parts.train), rows=settings.batch, steps=settings.window, seed=settings.seed
    )
    validation: Rows | None = None
    if parts.validation:
        stream = model.token_stream(parts.validation)
        validation = sampled_rows(stream, rows=_VALIDATION_ROWS, tokens=settings.validation_tokens, warm_up=_WARM_UP)
    budget = Budget(steps=settings.steps, seconds=settings.limit_seconds)
    return Training(model, settings, chunks, validation, budget)


def _trainer(
    run: Run, settings: Settings, callbacks: list[Callback], log: CsvLog, validate_every: int | None
) -> Trainer:
    # Lightning tells about devices and gives tips at this level.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    loggers: list[Logger] = [log]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(run.folder, name="", version="tensorboard", default_hp_metric=False))
    interval: int | timedelta | None = validate_every
    if settings.limit_seconds is not None and validate_every is None:
        interval = timedelta(seconds=settings.limit_seconds / settings.validations)
    return Trainer(
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=1,
        max_epochs=-1,
        val_check_interval=interval,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if any(isinstance(one, BestWeights) for one in callbacks) else 0,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.clip,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicFiles()],
        enable_model_summary=False,
        default_root_dir=run.folder,
    )


def _finish(run: Run, result: Result) -> Result:
    plot_losses(run.log, run.plot)
    ended = None if result.ended == "interrupted" else result.ended
    run.write_about(replace(run.read_about(), ended=ended, steps=result.steps, seconds=round(result.seconds, 2)))
    return result


def _characters_a_token(model: LanguageModel, parts: Parts) -> tuple[float, float]:
    """Of the training and of the validation part."""

    def ratio(documents: tuple[Document, ...]) -> float:
        return sum(len(d.text) for d in documents) / max(
            1, sum(len(model.vocabulary.encode(d.text)) for d in documents)
        )

    return ratio(parts.train), ratio(parts.validation)
