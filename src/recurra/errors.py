"""The errors that recurra raises for what a user handed over: what was got, what was expected, what to do."""


class RecurraError(ValueError):
    """An argument, a file or an equation that recurra cannot accept.

    `RecurraError("x has 4 features", expected="8 features", advice="...")` reads as one line. `got` is for values that
    the message does not already show.
    """

    def __init__(self, message: str, *, got: object = None, expected: str = "", advice: str = "") -> None:
        if expected:
            message = f"{message}: expected {expected}"
            if got is not None:
                message = f"{message}, got {got!r}"
        super().__init__(f"{message}. {advice}" if advice else message)


class ArgumentError(RecurraError):
    """A value that is not among the accepted ones."""


class ShapeError(RecurraError):
    """An array whose shape, dtype or device does not fit."""


class CellError(RecurraError):
    """Equations of a cell that cannot be made into a program; the message says what to write instead."""


class FormatError(RecurraError):
    """A file that is damaged, is of another format, or was written by a newer version."""


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot run here; the message gives the reason."""


class StreamInUse(RuntimeError):
    """A stream was called while another thread was in a call of it; the message says what to do."""


class RecurraBackendWarning(UserWarning):
    """Something runs on a slow path although a user may expect the engine. Said once for each reason."""
