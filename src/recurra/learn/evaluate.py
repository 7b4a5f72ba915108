"""Score a saved model: on the held-out parts of its own run, or on any text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from recurra.data import Document, parse_split, read_corpus
from recurra.errors import ArgumentError
from recurra.learn.language_model import check_same_data, open_corpus
from recurra.learn.run import Run
from recurra.tasks import Score, load


def evaluate(folder: Path, data: Path | None) -> dict[str, Score]:
    """Scores by part, each part read once, in order, with the state carried from beginning to end of each document.

    Args:
        folder: of a run, or of any saved model if `data` is given.
        data: a text file or a folder, scored whole; None for the validation and test parts of the run.

    Raises:
        ArgumentError: there is no model, nothing was held out, or the run's text has changed.
        FormatError: a file is damaged, or the data are not text.
        OSError: a file cannot be read.
    """
    model = load(folder)
    return {name: model.score(documents) for name, documents in documents_of(folder, data).items()}


def documents_of(folder: Path, data: Path | None) -> Mapping[str, Sequence[Document]]:
    """What a saved model is scored on, by part: the whole of `data`, else the validation and test parts of the run.

    Raises as `evaluate`.
    """
    if data is not None:
        return {str(data): read_corpus(data).documents}
    run = Run(folder)
    if not run.exists():
        raise ArgumentError(
            f"{str(folder)!r} is no folder of a training run, so nothing is known of a held-out text",
            advice="Name a text with --data.",
        )
    settings = run.read_settings()
    corpus = open_corpus(settings)
    check_same_data(run, corpus)
    parts = corpus.split(parse_split(settings.split))
    held_out = {"validation": parts.validation, "test": parts.test}
    found = {name: documents for name, documents in held_out.items() if documents}
    if not found:
        raise ArgumentError(
            f"nothing of the text was held out in {str(folder)!r} (its split is {settings.split})",
            advice="Name a text with --data.",
        )
    return found
