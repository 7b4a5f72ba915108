"""How far a language model comes in three minutes: recurra's GRU and torch.nn's, the same in everything else.

    python benchmarks/tinyshakespeare.py PATH/TO/input.txt

Both are trained by the same code, for the same time, on the first 90 % of the text; the last 10 % is then read once, in
order, with the state carried. Writes tinyshakespeare.json, without the path, and `recurra bench` takes it over into its
table.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from portable_commands import portable
from rich.console import Console
from torch_layers import on_torch

from recurra.bench.machine import describe_machine
from recurra.checkpoint import read_weights, write_atomically
from recurra.data import parse_split
from recurra.learn.fit import fit
from recurra.learn.language_model import build_model, open_corpus, train
from recurra.learn.run import About, Run
from recurra.learn.settings import Settings, parse_assignments
from recurra.tasks import Score, load

RESULT_FILE = "tinyshakespeare.json"


def train_recurra(settings: Settings, folder: Path, console: Console) -> Score:
    """The figure of recurra."""
    train(settings, folder, console=console)
    parts = open_corpus(settings).split(parse_split(settings.split))
    return load(folder).score(parts.validation)


def train_torch(settings: Settings, folder: Path, console: Console) -> Score:
    """The same with torch.nn.GRU."""
    torch.manual_seed(settings.seed)
    corpus = open_corpus(settings)
    parts = corpus.split(parse_split(settings.split))
    model = on_torch(build_model(settings, parts))
    run = Run(folder)
    run.begin(settings, About(corpus.source, corpus.fingerprint()))
    fit(run, settings, model, parts, resume=False, console=console)
    model.load_state_dict(read_weights(folder)[0])
    return model.score(parts.validation)


def main() -> None:
    """Train, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="tinyshakespeare's input.txt")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path("runs/tinyshakespeare"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, for both")
    given = parser.parse_args()
    chosen = {"data": str(given.data), "split": "90/10", "minutes": given.minutes, **parse_assignments(given.set)}
    settings = Settings.create(chosen)
    threads = settings.threads or 2
    torch.set_num_threads(threads)
    console = Console()
    scores = {}
    for name, train_it in (("recurra", train_recurra), ("torch", train_torch)):
        scores[name] = score = train_it(settings, given.out / name, console)
        console.print(
            f"{name}: {score.characters:,} characters predicted, {score.nats_per_character:.4f} nats/char",
            highlight=False,
        )
    command = portable("tinyshakespeare.py", sys.argv[1:])
    machine = describe_machine()
    result = {
        "nats_per_character": round(scores["recurra"].nats_per_character, 4),
        "command": command,
        "torch_nats_per_character": round(scores["torch"].nats_per_character, 4),
        "torch_command": command,
        "machine": f"{machine['processor']}, {machine['isa']}, {threads} threads",
    }
    write_atomically(Path(RESULT_FILE), (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
