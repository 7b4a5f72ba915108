"""The commands and their options. What they do stands in the modules beside this one, loaded when they run."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from recurra.cli import Interrupted, OutputClosed
from recurra.cli.settings import with_settings

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.", show_default=False)]
RunOrFile = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="The folder of a run or saved model, or its ONNX file.", show_default=False),
]


class _Commands(TyperGroup):
    """Hands Ctrl-C and a closed output to `main`."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the arguments; where they ask for help, print it."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:
            raise OutputClosed from None

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None
        except BrokenPipeError:
            raise OutputClosed from None


app = typer.Typer(
    cls=_Commands,
    help="Recurrent sequence models, from one equation to a deployed stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(train, name="train")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"recurra {version('recurra')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Recurrent sequence models, from one equation to a deployed stream."""


@train.command("language-model")
@with_settings
def language_model(
    given: dict[str, object],
    out: Annotated[Path | None, typer.Option(help="The folder to write to; runs/1, runs/2, ... if not given.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was killed or stopped, from its folder.")
    ] = None,
) -> None:
    """Train a model that writes like the text it reads, a character or a word at a time."""
    from recurra.cli.training import train_language_model

    train_language_model(given, out=out, resumed=resume)


@app.command()
def generate(
    run: RunOrFile,
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "",
    length: Annotated[int, typer.Option(min=0, help="How many characters (or words) to write.")] = 400,
    temperature: Annotated[
        float, typer.Option(help="Below 1 for safer text, above 1 for wilder text; 0 takes the likeliest always.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 1,
    top_k: Annotated[int | None, typer.Option(help="Choose among so many of the likeliest only.")] = None,
) -> None:
    """Let a trained model write; the text appears as it is made."""
    from recurra.cli.writing import write

    write(run, prompt=prompt, length=length, temperature=temperature, seed=seed, top_k=top_k)


@app.command()
def stream(run: RunOrFile) -> None:
    """Read standard input as it comes and write what a saved model, or an ONNX file that recurra wrote, makes of it.

    A language model reads lines, and puts before each how many bits a token it was surprised by; any other model reads
    and writes frames, raw little-endian float32.
    """
    from recurra.cli.streaming import stream as run_stream

    run_stream(run)


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[
        Path | None, typer.Option(help="A text file or folder to score whole; the run's held-out parts if not given.")
    ] = None,
) -> None:
    """Score a trained model, in nats and bits a character."""
    from recurra.cli.reports import report_scores

    report_scores(run, data)


@app.command()
def info(run: RunFolder) -> None:
    """Tell what is known about a training run, or about any saved model."""
    from recurra.cli.reports import report_run

    report_run(run)


@app.command()
def export(
    run: RunFolder,
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an ONNX file.", show_default=False)] = None,
    with_reset: Annotated[
        bool,
        typer.Option("--with-reset", help="For ONNX, an input that starts rows afresh; every cell is a Scan then."),
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Write a model with int8 weights, a quarter of the size.")
    ] = False,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Write a model with bfloat16 weights, half the size.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="For small weights, a text to compare the loss on; the run's validation part if not given."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="For small weights, refuse when the loss moves by more, in nats a character; 0.01 if not given.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="For small weights, the folder to write to; RUN-int8 or RUN-bfloat16 if not given."),
    ] = None,
) -> None:
    """Write a trained model in a form to deploy, and compare the two."""
    from recurra.cli.exporting import export_onnx, write_small
    from recurra.errors import ArgumentError

    small = [name for name, asked in (("int8", int8), ("bfloat16", bfloat16)) if asked]
    if len(small) + (onnx is not None) != 1:
        raise ArgumentError("what is to be written", expected="one of --onnx FILE, --int8 and --bfloat16")
    if with_reset and onnx is None:
        raise ArgumentError("--with-reset goes with --onnx FILE", expected=f"--{small[0]} without it")
    if small:
        write_small(run, out, weights=small[0], data=data, tolerance=0.01 if tolerance is None else tolerance)
    elif data is not None or out is not None or tolerance is not None:
        raise ArgumentError("--data, --out and --tolerance go with --int8 and --bfloat16", expected="--onnx FILE alone")
    elif onnx is not None:
        export_onnx(run, onnx, with_reset=with_reset)


@app.command()
def cells() -> None:
    """List the recurrent cells."""
    from recurra.cli.reports import report_cells

    report_cells()


@app.command()
def doctor() -> None:
    """Tell what runs on this machine, how fast, and why."""
    from recurra.cli.doctor import report_machine

    report_machine()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Measure the engine against its peers."""
    from recurra.bench import main

    main(context.args)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="The folder to write to; runs/demo if not given.")] = None,
    minutes: Annotated[float, typer.Option(help="How long to train.")] = 3.0,
) -> None:
    """Train on the Python standard library's source for three minutes, then write a page in its manner."""
    from recurra.cli.training import run_demo

    run_demo(out, minutes=minutes)
