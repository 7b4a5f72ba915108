"""Where commands print tables, and what changes while they run."""

from rich.console import Console

from recurra.cli import OutputClosed


class Terminal(Console):
    """rich's console, but for how it ends where nobody reads the output any more: as every command."""

    def on_broken_pipe(self) -> None:
        """Hand on to `main`. Raises OutputClosed."""
        raise OutputClosed from None
