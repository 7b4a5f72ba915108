"""The settings of a training run as options of a command, and how options, files and `--set` come together."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.learn.settings import Settings, parse_assignments, read_settings

FLAGS = ("data", "cell", "hidden", "layers", "minutes", "steps", "seed", "threads", "device", "tokens", "split")
"""The settings with an option of their own; all others are reached by `--set` and `--config`."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each of `FLAGS`, and `--config` and `--set`.

    The command gets what the user chose, by name and not yet checked, as its argument `given`: `--config` first, then
    `--set`, then the options, the later over the earlier.
    """

    def run(config: Path | None, assignments: list[str] | None, flags: dict[str, Any], own: dict[str, Any]) -> None:
        given: dict[str, Any] = {} if config is None else read_settings(config)
        given |= parse_assignments(assignments or [])
        given |= {name: value for name, value in flags.items() if value is not None}
        command(given=given, **own)

    def entry(**values: Any) -> None:
        flags = {name: values.pop(name) for name in FLAGS}
        run(values.pop("config"), values.pop("set_"), flags, values)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "given"]
    parameters = [*map(_option, FLAGS), *own, *_FILES]
    entry.__signature__ = inspect.Signature(  # type: ignore[attr-defined] - typer reads the options from here
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    entry.__annotations__ = {p.name: p.annotation for p in parameters}
    entry.__doc__ = command.__doc__
    return entry


def _option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    kinds = [kind for kind in (int, float) if field.annotation in (kind, kind | None)]
    choices = getattr(field.annotation, "__args__", ())
    metavar = "|".join(choices) if all(isinstance(choice, str) for choice in choices) else None
    default = "" if field.default is None else f" [default: {field.default}]"
    option = typer.Option(help=f"{field.description}{default}", metavar=metavar or None, show_default=False)
    annotation = Annotated[(kinds[0] if kinds else str) | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


_FILES = [
    inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, typer.Option(metavar="FILE.toml", help="A file of settings, name = value.")],
    ),
    inspect.Parameter(
        "set_",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="NAME=VALUE",
                help=f"Any setting; may be repeated. There are: {', '.join(Settings.model_fields)}.",
            ),
        ],
    ),
]
