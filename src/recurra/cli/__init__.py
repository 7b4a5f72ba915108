"""The command line: thin faces over `learn` and `tasks`. Errors are one line on standard error, and exit code 2."""

import os
import sys
from collections.abc import Sequence

from recurra.errors import BackendUnavailable, RecurraError

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""
OUTPUT_CLOSED = 141
"""The exit code, as shells have it, where nobody reads the output any more: `recurra generate RUN | head -1`."""
_BAD_INPUT = 2


class Interrupted(Exception):
    """Ctrl-C, carried past typer, which would end without a word."""


class OutputClosed(Exception):
    """Nobody reads the output any more; carried past typer, which would end as after a failure."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    Args:
        arguments: the words after `recurra`; those of the process if not given.

    Raises:
        SystemExit: always; code 0 when all went well, 2 for bad input, 130 after Ctrl-C, 141 when the output
            was closed before its end.
    """
    try:
        from recurra.cli.app import app

        try:
            app(args=None if arguments is None else list(arguments), prog_name="recurra")
        except SystemExit:
            # a short output may still wait to be written
            _flush()
            raise
    except (BrokenPipeError, OutputClosed):
        # Whoever read the output has enough. Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUTPUT_CLOSED)
    except (KeyboardInterrupt, Interrupted):
        print("recurra: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (RecurraError, BackendUnavailable) as error:
        _fail(str(error))
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}")


def _flush() -> None:
    # Python has no output where the shell has closed it
    if sys.stdout is not None:
        sys.stdout.flush()


def _fail(message: str) -> None:
    print("recurra:", " ".join(message.split("\n")), file=sys.stderr)
    sys.exit(_BAD_INPUT)
