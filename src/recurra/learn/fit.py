"""Train a language model from settings to a folder: read, split, build, fit, keep the best, draw the losses."""

import logging
import os
import warnings
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from recurra.checkpoint import read_model, save_model
from recurra.data import (
    Corpus,
    Document,
    Parts,
    TrainingChunks,
    Vocabulary,
    parse_split,
    read_corpus,
    read_standard_library,
    sampled_rows,
)
from recurra.errors import ArgumentError, BackendUnavailable
from recurra.learn.budget import Budget
from recurra.learn.callbacks import AtomicFiles, BestWeights, Interrupts, Limits, Record, SaveState, keep_weights
from recurra.learn.log import CsvLog
from recurra.learn.module import Training
from recurra.learn.plot import plot_losses
from recurra.learn.progress import RunProgress
from recurra.learn.run import VALIDATION_LOSS, About, Run
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


def train(settings: Settings, folder: Path, *, console: Console) -> Result:
    """Begin a run in a new folder.

    Raises:
        ArgumentError: the folder holds a run already, or the settings do not fit the data.
        FormatError: the data are not text.
        BackendUnavailable: the device is not there.
        DivergedError: the loss is no number any more; what was saved before is intact.
        OSError: something cannot be read or written; what was saved before is intact.
    """
    _prepare_torch(settings)
    corpus = open_corpus(settings)
    parts = corpus.split(parse_split(settings.split))
    vocabulary = Vocabulary.build((d.text for d in parts.train), settings.tokens, size=settings.vocabulary)
    model = _build(settings, vocabulary)
    if settings.data is not None:
        settings = settings.replaced({"data": str(Path(settings.data).resolve())})
    run = Run(folder)
    run.begin(settings, About(corpus.source, corpus.fingerprint()))
    save_model(folder, model.task, model.to_spec())
    _introduce(console, run, corpus, model)
    return _fit(run, settings, model, parts, resume=False, console=console)


def resume(folder: Path, changes: dict[str, object], *, console: Console) -> Result:
    """Go on with a run that was killed, interrupted or has ended, exactly where it was.

    Args:
        folder: of the run.
        changes: settings to change: `minutes` and `steps` (of the whole run), `threads` and `device` only.
        console: where to report.

    Raises:
        ArgumentError: there is no run, another setting was to be changed, or the data are not those of the run.
    """
    run = Run(folder)
    before = run.read_settings()
    for name in changes:
        if name not in ("minutes", "steps", "threads", "device"):
            raise ArgumentError(
                f"setting {name!r} cannot be changed in a run that has begun",
                expected="minutes, steps, threads or device beside --resume",
                advice="Begin another run with --out.",
            )
    settings = before.replaced(changes)
    _prepare_torch(settings)
    corpus = open_corpus(settings)
    check_same_data(run, corpus)
    parts = corpus.split(parse_split(settings.split))
    if run.model.exists():
        model = LanguageModel.from_spec(read_model(folder)[1])
    else:
        vocabulary = Vocabulary.build((d.text for d in parts.train), settings.tokens, size=settings.vocabulary)
        model = _build(settings, vocabulary)
        save_model(folder, model.task, model.to_spec())
    run.write_settings(settings)
    _introduce(console, run, corpus, model)
    return _fit(run, settings, model, parts, resume=run.trainer_state.exists(), console=console)


def open_corpus(settings: Settings) -> Corpus:
    """The text that the settings name. Raises as `read_corpus` does."""
    return read_standard_library() if settings.data is None else read_corpus(Path(settings.data))


def check_same_data(run: Run, corpus: Corpus) -> None:
    """Raises ArgumentError unless this is the text that the run was trained on."""
    if run.read_about().fingerprint != corpus.fingerprint():
        raise ArgumentError(
            f"the text of {corpus.source} has changed since this run began",
            advice="Its parts would be others now. Name the text with --data to evaluate on all of it.",
        )


def _prepare_torch(settings: Settings) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(
            "device 'cuda' was asked for, but torch finds no CUDA device here. Leave --device out."
        )
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(settings.seed)


def _build(settings: Settings, vocabulary: Vocabulary) -> LanguageModel:
    return LanguageModel.build(
        vocabulary,
        cell=settings.cell,
        hidden=settings.hidden,
        layers=settings.layers,
        embedding=settings.embedding,
        dropout=settings.dropout,
        tied=settings.tied,
    )


def _introduce(console: Console, run: Run, corpus: Corpus, model: LanguageModel) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    skipped = f", {corpus.skipped} other files left out" if corpus.skipped else ""
    files = "" if corpus.by_position else f" in {len(corpus.documents):,} files"
    for line in (
        f"text    {corpus.source}: {corpus.characters:,} characters{files}{skipped}",
        f"model   {parameters:,} parameters, {len(model.vocabulary):,} tokens ({model.vocabulary.unit})",
        f"folder  {run.folder}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _fit(run: Run, settings: Settings, model: LanguageModel, parts: Parts, *, resume: bool, console: Console) -> Result:
    stream = model.stream(parts.train)
    chunks = TrainingChunks(stream, rows=settings.batch, steps=settings.window, seed=settings.seed)
    validation = None
    ratios = [_characters(parts.train) / len(stream)] * 2
    if parts.validation:
        held_out = model.stream(parts.validation)
        ratios[1] = _characters(parts.validation) / len(held_out)
        validation = sampled_rows(held_out, rows=_VALIDATION_ROWS, tokens=settings.validation_tokens, warm_up=_WARM_UP)
    budget = Budget(steps=settings.steps, seconds=settings.limit_seconds)
    training = Training(model, settings, chunks, validation, budget)
    # At least 2, so that there is a step between two validations after which the run can be left.
    validate_every = None if settings.steps is None else max(2, -(-settings.steps // settings.validations))
    with Interrupts() as interrupts:
        limits = Limits(interrupts, validate_every=validate_every)
        record = Record(every=settings.log_every)
        progress = RunProgress(console, record, characters_a_token=(ratios[0], ratios[1]))
        stopping = EarlyStopping(
            VALIDATION_LOSS, patience=settings.patience, check_finite=False, check_on_train_epoch_end=False
        )
        best = BestWeights(run, limits)
        callbacks = [limits, record, progress, SaveState(run, limits, every=settings.save_every)]
        if validation is not None:
            callbacks += [stopping, best]
        if validate_every is not None:
            interval: int | timedelta = validate_every
        else:
            assert settings.limit_seconds is not None
            interval = timedelta(seconds=settings.limit_seconds / settings.validations)
        trainer = _trainer(run, settings, callbacks, interval, resume=resume, validate=validation is not None)
        with warnings.catch_warnings():
            # Lightning 2.6 looks at torch's tree specifications in a way that torch 2.13 warns of, at every start.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            try:
                trainer.fit(training, ckpt_path=run.trainer_state if resume else None, weights_only=True)
            except SIGTERMException:
                limits.interrupted = True
            if not limits.interrupted and validation is not None and training.validated_at != trainer.global_step:
                # Killed between the last update and its validation, and now resumed.
                trainer.validate(training, verbose=False)
    if not run.weights.exists():
        keep_weights(run, training, validation_loss=None)
    ended = (
        "interrupted" if limits.interrupted else "early" if not limits.finished else budget.which(trainer.global_step)
    )
    return _finish(run, Result(run.folder, ended, trainer.global_step, budget.spent))


def _trainer(
    run: Run, settings: Settings, callbacks: list, interval: int | timedelta, *, resume: bool, validate: bool
) -> Trainer:
    # Lightning tells about devices and gives tips at this level.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    after = 0
    if resume:
        after = AtomicFiles().load_checkpoint(run.trainer_state)["global_step"]
    loggers: list[Logger] = [CsvLog(run.log, after=after)]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(run.folder, name="", version="tensorboard", default_hp_metric=False))
    return Trainer(
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=1,
        max_epochs=-1,
        val_check_interval=interval,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validate else 0,
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


def _characters(documents: tuple[Document, ...]) -> int:
    return sum(len(document.text) for document in documents)
