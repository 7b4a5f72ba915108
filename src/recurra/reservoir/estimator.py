"""What the estimators share: their settings, the layer, the readout, and how it is solved and chosen."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path as Folder
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.errors import ArgumentError
from recurra.nn import Layer
from recurra.reservoir.draw import Reservoir
from recurra.reservoir.echo_state import EchoStateTest, RecurraEchoStateWarning, echo_state_test
from recurra.reservoir.ridge import Moments, Path
from recurra.reservoir.series import Sequences, layer_dtype

Array = NDArray[np.float64]
Estimator = TypeVar("Estimator", bound="ReservoirEstimator")

_MEASURED_STEPS = 1000


class ReservoirEstimator(ABC):
    """A fixed layer with a linear readout of [1; input; layer's output] (Lukosevicius 2012, eq. 4), fitted by ridge
    regression.

    What is learned stands in attributes that end in an underscore. Subclasses collect `_moments`.
    """

    task: str
    layer_: Layer
    echo_state_: EchoStateTest | None
    """What was measured, where the radius is 1 or more."""

    def __init__(self, reservoir: Reservoir | Layer, regularisation: float | Sequence[float]) -> None:
        self.reservoir = reservoir
        self.regularisation = regularisation
        self._check_settings()

    def _check_settings(self) -> None:
        if not isinstance(self.reservoir, Reservoir | Layer):
            raise ArgumentError(
                f"reservoir is a {type(self.reservoir).__name__}",
                expected="a recurra.reservoir.Reservoir, or a layer of recurra",
            )
        if isinstance(self.reservoir, Layer):
            layer = self.reservoir
            if not layer.causal or layer.pools or layer.uses_elapsed:
                raise ArgumentError(
                    f"reservoir is a {type(layer).__name__}",
                    expected="a layer that reads forwards, puts out a vector a step, and needs no time between steps",
                )
        self._regularisations()

    def _regularisations(self) -> Array:
        given = self.regularisation
        values = list(given) if isinstance(given, Iterable) else [given]
        for value in values:
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < np.inf:
                raise ArgumentError(f"regularisation holds {value!r}", expected="finite numbers from 0")
        if not values:
            raise ArgumentError("regularisation is empty", expected="a number, or several to choose from")
        return np.array(values, dtype=np.float64)

    # settings by name, as scikit-learn has it

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name; with `deep` also the reservoir's, as `reservoir__units`."""
        names = list(inspect.signature(type(self)).parameters)
        found = {name: getattr(self, name) for name in names}
        if deep and isinstance(self.reservoir, Reservoir):
            found |= {f"reservoir__{name}": value for name, value in vars(self.reservoir).items()}
        return found

    def set_params(self: Estimator, **parameters: Any) -> Estimator:
        """Change settings by name, `reservoir__leak` and the like too. They count from the next `fit` on.

        Raises ArgumentError for a name that there is not, or a value that does not fit; then nothing is changed.
        """
        known, changed = self.get_params(), self.get_params(deep=False)
        inner = {}
        for name, value in parameters.items():
            if name not in known:
                raise ArgumentError(f"there is no setting {name!r}", expected=f"one of {', '.join(known)}")
            if name.startswith("reservoir__"):
                inner[name.removeprefix("reservoir__")] = value
            else:
                changed[name] = value
        if inner:
            changed["reservoir"] = replace(changed["reservoir"], **inner)
        type(self)(**changed)
        for name, value in changed.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_params(deep=False).items())
        return f"{type(self).__name__}({settings})"

    # the layer

    def _begin(self, x: Sequences, outputs: int) -> None:
        """Draw the layer for these inputs and forget all data."""
        if isinstance(self.reservoir, Reservoir):
            single = all(row.dtype == np.float32 for row in x.rows)
            self.layer_ = self.reservoir.layer(x.columns, dtype=torch.float32 if single else torch.float64)
        else:
            self.layer_ = self.reservoir.eval()
        self.echo_state_ = None
        longest = max(x.rows, key=len)
        if isinstance(self.reservoir, Reservoir) and self.reservoir.spectral_radius >= 1 and len(longest) > 1:
            self._measure_echo_state(longest[:_MEASURED_STEPS])
        self._moments: Moments | None = Moments(x.columns + self.layer_.output_size, outputs)
        self._path: Path | None = None
        self._scores: dict[float, float] = {}

    def _measure_echo_state(self, row: np.ndarray) -> None:
        driven = torch.as_tensor(np.ascontiguousarray(row), dtype=self._dtype)
        self.echo_state_ = echo_state_test(self.layer_, driven)
        assert isinstance(self.reservoir, Reservoir)
        warnings.warn(
            f"the spectral radius is {self.reservoir.spectral_radius}; driven by the data, {self.echo_state_}",
            RecurraEchoStateWarning,
            stacklevel=4,
        )

    def _collected(self) -> Moments:
        """What was learned so far, to be added to. Raises ArgumentError when it was not saved."""
        if self._moments is None:
            raise ArgumentError(
                "this estimator was loaded without what partial_fit needs",
                advice="Save it with save(folder, resumable=True)",
            )
        return self._moments

    @property
    def _input_size(self) -> int | None:
        return self.layer_.input_size if self._begun else None

    @property
    def _dtype(self) -> torch.dtype:
        return layer_dtype(self.layer_)

    @property
    def _begun(self) -> bool:
        return hasattr(self, "layer_")

    # the readout

    def _readout(self) -> tuple[Array, Array]:
        """The weights (features, outputs) and biases (outputs,) of the chosen regularisation."""
        if not self._begun:
            raise ArgumentError(f"this {type(self).__name__} is not fitted", advice="Call fit or partial_fit before")
        if self._path is None:
            path = self._collected().solve(self._regularisations())
            self._choose(path, path.cross_validation, "generalised cross-validation")
        assert self._path is not None
        return self._path.weights[self._best], self._path.biases[self._best]

    def _choose(self, path: Path, scores: Array, criterion: str) -> None:
        self._path, self._criterion = path, criterion
        self._best = int(np.argmin(scores))
        self._scores = dict(zip(path.regularisations.tolist(), scores.tolist(), strict=True))

    @property
    def coef_(self) -> Array:
        """The weights of the readout, (outputs, input + units)."""
        return self._readout()[0].T

    @property
    def intercept_(self) -> Array:
        """The biases of the readout, (outputs,)."""
        return self._readout()[1]

    @property
    def regularisation_(self) -> float:
        """The regularisation that was chosen."""
        self._readout()
        assert self._path is not None
        return float(self._path.regularisations[self._best])

    @property
    def scores_(self) -> dict[float, float]:
        """The score of each regularisation, the lower the better; `criterion_` says what it is."""
        self._readout()
        return dict(self._scores)

    @property
    def criterion_(self) -> str:
        """What the regularisation was chosen by: "validation" or "generalised cross-validation"."""
        self._readout()
        return self._criterion

    # on disk

    def save(self, folder: str | Folder, *, resumable: bool = False) -> None:
        """Write the fitted estimator as `model.json` and `weights.safetensors`; `recurra.load` opens it.

        Args:
            folder: created if need be.
            resumable: keep what `partial_fit` needs to go on, too: the square of the features, in numbers.

        Raises:
            ArgumentError: it is not fitted, or its layer is no nest of recurra's layers.
            OSError: it cannot be written; an earlier file is intact.
        """
        from recurra.reservoir import saved  # it knows the subclasses

        saved.save(self, Folder(folder), resumable=resumable)

    @property
    @abstractmethod
    def _learned(self) -> dict[str, Any]:
        """What a subclass has learned besides the readout, as plain JSON."""

    @_learned.setter
    @abstractmethod
    def _learned(self, learned: dict[str, Any]) -> None: ...
