"""Train a language model from settings to a folder: read, split, build, fit; and go on with a run that has begun."""

from pathlib import Path

import torch
from rich.console import Console

from recurra import cells
from recurra.checkpoint import read_model, save_model
from recurra.data import Corpus, Parts, Vocabulary, parse_split, read_corpus, read_standard_library
from recurra.errors import ArgumentError, BackendUnavailable, RecurraError
from recurra.learn.callbacks import AtomicFiles
from recurra.learn.fit import Result, fit
from recurra.learn.run import About, Run
from recurra.learn.settings import Settings
from recurra.tasks import LanguageModel


def train(settings: Settings, folder: Path, *, console: Console) -> Result:
    """Begin a run in a new folder.

    Raises:
        ArgumentError: the folder holds a run already, the settings do not fit the data, or the model no memory.
        FormatError: the data are not text.
        BackendUnavailable: the device is not there.
        DivergedError: the loss is no number any more; what was saved before is intact.
        OSError: something cannot be read or written; what was saved before is intact.
    """
    if settings.data == "":
        raise ArgumentError("--data names nothing", expected="a text file or a folder")
    if settings.data is not None:
        settings = settings.replaced({"data": str(Path(settings.data).resolve())})
    for path in (folder, Path(settings.data or "")):
        _check_name(path)
    _prepare_torch(settings)
    corpus = open_corpus(settings)
    parts = corpus.split(parse_split(settings.split))
    _check_cell(settings.cell)
    _check_rows(settings, parts)
    model = _build(settings, parts)
    run = Run(folder)
    run.begin(settings, About(corpus.source, corpus.fingerprint()))
    save_model(folder, model.task, model.to_spec())
    _introduce(console, run, corpus, model)
    return fit(run, settings, model, parts, resume=False, console=console)


def resume(folder: Path, changes: dict[str, object], *, console: Console) -> Result:
    """Go on with a run that was killed, interrupted or has ended, exactly where it was.

    A run that has ended, and that the changes do not make longer, is left as it is.

    Args:
        folder: of the run.
        changes: settings to change: `minutes`, `steps` (of the whole run), `patience`, `threads` and `device` only.
        console: where to report.

    Raises:
        ArgumentError: there is no run or nothing saved to go on from, another setting was to be changed, or the data
            are not those of the run, or the run has made more updates than `steps`.
        FormatError: `trainer.ckpt` is damaged.
    """
    run = Run(folder)
    before = run.read_settings()
    for name in changes:
        if name not in ("minutes", "steps", "patience", "threads", "device"):
            raise ArgumentError(
                f"setting {name!r} cannot be changed in a run that has begun",
                expected="minutes, steps, patience, threads or device beside --resume",
                advice="Begin another run with --out.",
            )
    settings = before.replaced(changes)
    if not run.trainer_state.exists():
        raise ArgumentError(
            f"there is nothing to go on from in {str(folder)!r}: it holds no {run.trainer_state.name}",
            advice="The run ended before it saved its state. Begin it again, in another folder: "
            f"recurra train language-model --config {run.settings_file} --out FOLDER",
        )
    if "steps" in changes:
        _check_steps(settings, run)
    about = run.read_about()
    if about.ended is not None and not _is_longer(settings, before, about):
        return Result(folder, about.ended, about.steps, about.seconds, already=True)
    _prepare_torch(settings)
    corpus = open_corpus(settings)
    check_same_data(run, corpus)
    parts = corpus.split(parse_split(settings.split))
    if run.model.exists():
        model = LanguageModel.from_spec(read_model(folder)[1])
    else:
        model = build_model(settings, parts)
        save_model(folder, model.task, model.to_spec())
    run.write_settings(settings)
    _introduce(console, run, corpus, model)
    return fit(run, settings, model, parts, resume=True, console=console)


def _check_steps(settings: Settings, run: Run) -> None:
    """Raises ArgumentError for a run that has made more updates than these settings want."""
    reached = AtomicFiles().load_checkpoint(run.trainer_state)["global_step"]
    if settings.steps is not None and settings.steps < reached:
        raise ArgumentError(
            "steps is less than the updates that the run has made",
            got=settings.steps,
            expected=f"{reached:,} or more, of the whole run",
        )


def _is_longer(settings: Settings, before: Settings, about: About) -> bool:
    """Whether a run that has ended goes on with these settings."""
    if about.ended == "early":
        return settings.patience > before.patience
    if about.ended == "steps":
        return settings.steps is None or settings.steps > about.steps
    limit, limit_before = settings.limit_seconds, before.limit_seconds
    return limit is None or (limit_before is not None and limit > limit_before)


def _check_cell(name: str) -> None:
    """Raises ArgumentError for a cell that needs more than text and `hidden`."""
    program = cells.get(name)
    needs = [f"the width {width!r}" for width in sorted(program.width_names)]
    needs += ["the time between steps"] * program.uses_elapsed
    if needs:
        raise ArgumentError(
            f"the cell {name!r} needs {' and '.join(needs)}, which settings and a text do not have",
            advice="Take another (recurra cells), or use it in Python: recurra.nn.Recurrent.",
        )


def _check_rows(settings: Settings, parts: Parts) -> None:
    """Raises ArgumentError for a batch of more rows than the text fills."""
    characters = sum(len(document.text) for document in parts.train)
    if characters < 2 * settings.batch:
        raise ArgumentError(
            f"setting 'batch' is {settings.batch:,}, and the training part has {characters:,} characters",
            expected=f"{characters // 2:,} rows at most",
        )


def _build(settings: Settings, parts: Parts) -> LanguageModel:
    """The model of the settings. Raises ArgumentError where it does not fit into memory."""
    try:
        return build_model(settings, parts)
    except RecurraError:
        raise
    except (RuntimeError, MemoryError, OverflowError):
        raise ArgumentError(
            "the model does not fit into memory",
            got=f"hidden {settings.hidden:,}, layers {settings.layers:,}, embedding {settings.embedding:,}",
            expected="less of one of them",
        ) from None


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


def _check_name(path: Path) -> None:
    """Raises ArgumentError for a path that the files of a run cannot hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ArgumentError(
            "a path that is not UTF-8",
            got=str(path),
            expected="a name of characters",
            advice="Rename it, or link to it.",
        ) from None


def _prepare_torch(settings: Settings) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(
            "device 'cuda' was asked for, but torch finds no CUDA device here. Leave --device out."
        )
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)


def build_model(settings: Settings, parts: Parts) -> LanguageModel:
    """The model of the settings with the vocabulary of the training part, its weights drawn from torch's generator."""
    texts = (document.text for document in parts.train)
    return LanguageModel.build(
        Vocabulary.build(texts, settings.tokens, size=settings.vocabulary),
        cell=settings.cell,
        hidden=settings.hidden,
        layers=settings.layers,
        embedding=settings.embedding,
        dropout=settings.dropout,
        tied=settings.tied,
    )


def _files(count: int, which: str = "") -> str:
    return f"{count:,} {which}{'file' if count == 1 else 'files'}"


def _introduce(console: Console, run: Run, corpus: Corpus, model: LanguageModel) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    skipped = f", {_files(corpus.skipped, 'other ')} left out" if corpus.skipped else ""
    files = "" if corpus.by_position else f" in {_files(len(corpus.documents))}"
    for line in (
        f"text    {corpus.source}: {corpus.characters:,} characters{files}{skipped}",
        f"model   {parameters:,} parameters, {len(model.vocabulary):,} tokens ({model.vocabulary.unit})",
        f"folder  {run.folder}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
