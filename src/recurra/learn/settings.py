"""What can be chosen about a training run: one flat list, the same on the command line, in a file and in Python."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recurra.errors import ArgumentError, FormatError


class Settings(BaseModel):
    """Everything that decides how a language model is trained; with the data, it decides the result.

    A run that ends by `steps` gives the same weights, bit for bit, for the same settings, data and machine. One that
    ends by `minutes` does not: how far it comes in that time differs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    data: str | None = None
    """A text file or a folder of text files, UTF-8; the Python standard library's source if not given."""
    split: str = "90/5/5"
    """Per cent for training, validation and test: a file is split by position, a folder by file."""
    tokens: Literal["char", "word"] = "char"
    """Whether the model reads characters or words."""
    vocabulary: int = Field(default=10_000, ge=1)
    """How many different tokens the model knows at most, the most frequent ones of the training part."""

    cell: str = "gru"
    """The recurrent cell; `recurra cells` lists them."""
    hidden: int = Field(default=512, ge=1)
    """Units of each layer."""
    layers: int = Field(default=1, ge=1)
    """Recurrent layers, one on top of the other."""
    embedding: int = Field(default=64, ge=1)
    """Features of a token before the first layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of features set to zero in training, between all layers; it helps where the text is read many times."""
    tied: bool = False
    """Whether the softmax takes its weights from the embedding."""

    batch: int = Field(default=32, ge=1)
    """Rows that the text is laid out in; they are read in parallel."""
    window: int = Field(default=50, ge=1)
    """Steps that the gradient flows back through time; the state is carried on beyond them."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """AdamW, Adam, or stochastic gradient descent with momentum."""
    learning_rate: float = Field(default=4e-3, gt=0)
    """The highest learning rate, reached at the end of the warm-up."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of stochastic gradient descent, and how slowly Adam's mean gradient changes."""
    weight_decay: float = Field(default=0.01, ge=0)
    """How strongly weights are pulled towards zero; biases are not."""
    clip: float = Field(default=1.0, gt=0)
    """The norm that a longer gradient is shortened to."""
    warm_up: float = Field(default=0.02, ge=0, lt=1)
    """Share of the run in which the learning rate rises linearly from zero."""
    decay: Literal["cosine", "none"] = "cosine"
    """Whether the learning rate falls to zero along half a cosine after the warm-up, or stays."""

    minutes: float | None = Field(default=None, gt=0)
    """Stop after this much time; 3 minutes if neither this nor `steps` is given."""
    steps: int | None = Field(default=None, ge=1)
    """Stop after so many updates of the weights."""
    validations: int = Field(default=10, ge=1)
    """How often the validation part is scored in a run."""
    validation_tokens: int = Field(default=60_000, ge=1)
    """How much of the validation part is scored each time, spread over all of it."""
    patience: int = Field(default=5, ge=1)
    """Stop when the validation loss has not fallen for so many times in a row."""

    seed: int = Field(default=1, ge=0, lt=2**32)
    """Of all random numbers: first weights, dropout and the order of reading."""
    threads: int | None = Field(default=None, ge=1)
    """Threads to compute with; as many as there are cores if not given."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: mixed precision, products in bfloat16 and all else in float32, where the processor has instructions."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    log_every: int = Field(default=50, ge=1)
    """Updates from one row of the log to the next."""
    save_every: float = Field(default=60.0, ge=0)
    """Seconds from one saved state to the next; after a kill the run goes on from the last one."""

    @property
    def limit_seconds(self) -> float | None:
        """The time after which to stop; None when only `steps` counts."""
        if self.minutes is None:
            return 180.0 if self.steps is None else None
        return 60 * self.minutes

    @classmethod
    def create(cls, values: Mapping[str, Any]) -> Self:
        """Settings from values by name; strings are read as numbers where numbers are wanted.

        Raises:
            ArgumentError: an unknown name (the nearest known one is given), or a value that does not fit.
        """
        for name in values:
            if name not in cls.model_fields:
                near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
                advice = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(cls.model_fields)}."
                raise ArgumentError(f"there is no setting {name!r}", advice=advice)
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            problem = first["msg"][0].lower() + first["msg"][1:]
            raise ArgumentError(f"setting {name!r}: {problem}, got {first['input']!r}") from None

    def replaced(self, values: Mapping[str, Any]) -> Self:
        """These settings with some values changed. Raises ArgumentError as `create` does."""
        return self.create({**self.model_dump(), **values})

    def to_toml(self) -> str:
        """The settings as a file that `read_settings` reads, each with what it means."""
        lines = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            lines.append(f"# {field.description}")
            # Strings, numbers and booleans are written alike in JSON and in TOML.
            lines.append(f"# {name} =" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}")
        return "\n".join(lines) + "\n"


def read_settings(path: Path) -> dict[str, Any]:
    """The values in a settings file (TOML), by name, not yet checked.

    Raises:
        ArgumentError: there is no such file.
        FormatError: it is not TOML.
    """
    if not path.is_file():
        raise ArgumentError(f"there is no settings file {str(path)!r}", advice="Check the path after --config.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(
            f"{str(path)!r} is not a settings file: {error}", expected='lines such as cell = "lstm"'
        ) from None


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """`["dropout=0.3"]` as values by name, not yet checked. Raises ArgumentError where there is no "="."""
    values = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise ArgumentError("--set", got=assignment, expected="name=value, such as dropout=0.3")
        values[name.strip()] = value.strip()
    return values
