"""The errors that recurra raises for what a user handed over: what was got, what was expected, what to do."""


class RecurraError(ValueError):
    """An argument, a file or an equation that recurra cannot accept."""


class ShapeError(RecurraError):
    """An array whose shape, dtype or device does not fit."""

    def __init__(self, what: str, *, got: object, expected: object, advice: str = "") -> None:
        super().__init__(describe(what, got=got, expected=expected, advice=advice))


class ArgumentError(RecurraError):
    """A value that is not among the accepted ones."""

    def __init__(self, what: str, *, got: object, expected: object, advice: str = "") -> None:
        super().__init__(describe(what, got=got, expected=expected, advice=advice))


class CellError(RecurraError):
    """Equations of a cell that cannot be made into a program; the message says what to write instead."""


class FormatError(RecurraError):
    """A file that is damaged, is of another format, or was written by a newer version."""


class BackendUnavailable(RuntimeError):  # noqa: N818 - a state of the machine, named as the report names it
    """A backend was asked for by name and cannot run here; the message gives the reason."""


def describe(what: str, *, got: object, expected: object, advice: str = "") -> str:
    """One sentence for an error: `x: expected (batch, time, 8), got (4, 8). Add the time dimension.`"""
    sentence = f"{what}: expected {expected}, got {got}."
    return f"{sentence} {advice}" if advice else sentence
