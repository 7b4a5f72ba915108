"""The folder of a training run.

    model.json            what the model is: vocabulary, layers, the programs of its cells
    weights.safetensors   the weights with the lowest validation loss so far (the last ones if nothing is validated)
    settings.toml         every setting of the run; can be given to --config again
    run.json              where the data came from, and how the run ended
    trainer.ckpt          what `--resume` needs: weights, optimizer, random numbers, carried state, progress
    log.csv               step, seconds, learning rate, training and validation loss
    loss.png              the log as a plot
    uninterrupted.safetensors   the weights that a resumed run goes on with, where an interrupted one left better ones
    tensorboard/          the log for TensorBoard, if that is installed

`recurra.load(folder)` needs the first two only. Each file is written beside its place and then renamed, so a run that
is killed at any moment leaves every file whole.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from recurra.checkpoint import MODEL_FILE, WEIGHTS_FILE, write_atomically
from recurra.errors import ArgumentError, FormatError
from recurra.learn.settings import Settings, read_settings

VALIDATION_LOSS = "validation_loss"
"""What the loss of the validation part, in nats a token, is called in the log and beside the weights."""


@dataclass(frozen=True)
class About:
    """What `run.json` holds."""

    source: str
    """Where the text came from, in words."""
    fingerprint: str
    """`Corpus.fingerprint` of it."""
    ended: str | None = None
    """Why the run came to its end; None while it has not."""
    steps: int = 0
    """Updates of the weights."""
    seconds: float = 0.0
    """Time spent training and validating."""


@dataclass(frozen=True)
class Run:
    """The files of a run."""

    folder: Path

    @property
    def model(self) -> Path:
        """What the model is."""
        return self.folder / MODEL_FILE

    @property
    def weights(self) -> Path:
        """The best weights."""
        return self.folder / WEIGHTS_FILE

    @property
    def _aside(self) -> Path:
        return self.folder / "uninterrupted.safetensors"

    def set_weights_aside(self) -> None:
        """Keep a copy of the best weights, if there are any; `take_weights_back` undoes what comes after."""
        if self.weights.exists():
            write_atomically(self._aside, self.weights.read_bytes())

    def take_weights_back(self) -> None:
        """The weights that were set aside are the best ones again, if there are any."""
        if self._aside.exists():
            self._aside.replace(self.weights)

    @property
    def trainer_state(self) -> Path:
        """What is needed to go on."""
        return self.folder / "trainer.ckpt"

    @property
    def log(self) -> Path:
        """Losses by step."""
        return self.folder / "log.csv"

    @property
    def plot(self) -> Path:
        """Losses as a picture."""
        return self.folder / "loss.png"

    @property
    def settings_file(self) -> Path:
        """Every setting."""
        return self.folder / "settings.toml"

    @property
    def _about(self) -> Path:
        return self.folder / "run.json"

    def exists(self) -> bool:
        """Whether a run has begun in this folder."""
        return self.settings_file.is_file()

    def begin(self, settings: Settings, about: About) -> None:
        """Make the folder and write down what the run is.

        Raises:
            ArgumentError: another run is in the folder.
            OSError: it cannot be written.
        """
        if self.exists() or self.model.exists():
            raise ArgumentError(
                f"{str(self.folder)!r} holds a run already",
                advice="Give another folder with --out, or go on with that run with --resume.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_about(about)
        self.write_settings(settings)

    def write_settings(self, settings: Settings) -> None:
        """Write `settings.toml`."""
        write_atomically(self.settings_file, settings.to_toml().encode())

    def read_settings(self) -> Settings:
        """The settings of the run.

        Raises:
            ArgumentError: there is no run in the folder.
            FormatError: its settings are damaged.
        """
        if not self.exists():
            raise ArgumentError(f"there is no training run in {str(self.folder)!r}")
        values = read_settings(self.settings_file)
        if "cell" not in values:
            raise FormatError(f"{str(self.settings_file)!r} is damaged: most of it is missing")
        return Settings.create(values)

    def write_about(self, about: About) -> None:
        """Write `run.json`."""
        write_atomically(self._about, json.dumps(asdict(about), indent=1).encode())

    def read_about(self) -> About:
        """What is known about the run.

        Raises:
            FormatError: `run.json` is missing or damaged.
        """
        try:
            content: Any = json.loads(self._about.read_bytes())
            return About(**{field.name: content[field.name] for field in fields(About)})
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{str(self._about)!r} is missing or damaged ({error})") from None
