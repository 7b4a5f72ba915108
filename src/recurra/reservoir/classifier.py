"""The echo-state network that names the class of a whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, ShapeError
from recurra.nn import Layer
from recurra.reservoir.draw import Reservoir
from recurra.reservoir.estimator import ReservoirEstimator
from recurra.reservoir.network import Data
from recurra.reservoir.series import Sequences, check_washout, read_sequences, walk

_POOLING = ("mean", "last")


class EchoStateClassifier(ReservoirEstimator):
    """Classes of sequences: ridge regression of one output a class on each sequence's pooled features.

    Args:
        reservoir, regularisation: as in `EchoStateNetwork`. Several regularisations are judged by generalised
            cross-validation.
        pooling: "mean" of the features over all steps after the washout, or those of the "last" step.

    Attributes: `classes_`, and those of `EchoStateNetwork` without `state_`.

    Raises:
        ArgumentError: a setting outside its range.
    """

    task = "echo-state-classifier"
    classes_: NDArray[Any]

    def __init__(
        self,
        reservoir: Reservoir | Layer = Reservoir(),  # noqa: B008 - a frozen value
        *,
        regularisation: float | Sequence[float] = 1e-6,
        pooling: str = "mean",
    ) -> None:
        self.pooling = pooling
        super().__init__(reservoir, regularisation)

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.pooling not in _POOLING:
            raise ArgumentError(f"pooling is {self.pooling!r}", expected=" or ".join(map(repr, _POOLING)))

    def fit(self, x: Data, y: Any, *, washout: int = 0, lengths: Any = None) -> EchoStateClassifier:
        """Draw the reservoir, run it over the sequences, and solve the readout.

        Args:
            x: (batch, time, features), or a list of (time, features).
            y: (batch,), the class of each sequence: numbers or strings, two different ones or more.
            washout: so many steps at the beginning of each sequence do not count in the mean.
            lengths: (batch,), the valid steps of each row of a batch.

        Raises:
            ShapeError, ArgumentError: as `EchoStateNetwork.fit`; and for classes that do not fit.
        """
        found = self._read(x, lengths, None)
        labels = _labels(y, len(found.rows))
        classes = np.unique(labels)
        washout = check_washout(washout, found)
        _check_classes(classes)
        self._begin(found, len(classes))
        self.classes_ = classes
        self._learn(found, labels, washout)
        self._readout()
        return self

    def partial_fit(
        self, x: Data, y: Any, *, classes: Any = None, washout: int = 0, lengths: Any = None
    ) -> EchoStateClassifier:
        """Learn from more sequences; the readout is then that of all of them together.

        Args:
            classes: all that there will be; needed at the first call.
            x, y, washout, lengths: as in `fit`.

        Raises:
            ShapeError, ArgumentError: as `fit`; a class that was not announced; an estimator that was loaded from a
                file that is not resumable.
        """
        found = self._read(x, lengths, self._input_size)
        labels = _labels(y, len(found.rows))
        washout = check_washout(washout, found)
        if not self._begun:
            if classes is None:
                raise ArgumentError("classes is missing", expected="all classes that there will be, at the first call")
            announced = np.unique(_labels(classes, None))
            _check_classes(announced)
            _check_known(labels, announced)
            self._begin(found, len(announced))
            self.classes_ = announced
        _check_known(labels, self.classes_)
        self._learn(found, labels, washout)
        return self

    def _read(self, x: Data, lengths: Any, columns: int | None) -> Sequences:
        if columns is None and isinstance(self.reservoir, Layer):
            columns = self.reservoir.input_size
        found = read_sequences("x", x, lengths=lengths, columns=columns)
        if found.form == "one":
            raise ShapeError(
                f"x has shape {found.rows[0].shape}", expected="(batch, time, features)", advice="One is x[None]"
            )
        return found

    def _learn(self, x: Sequences, labels: NDArray[Any], washout: int) -> None:
        moments = self._collected()
        targets = (labels[:, None] == self.classes_).astype(np.float64)
        moments.add(self._pooled(x, washout), targets)
        self._washout = washout
        self._path = None

    def _pooled(self, x: Sequences, washout: int) -> NDArray[np.float64]:
        """The features of each sequence, (batch, input + units)."""
        pooled = np.zeros((len(x.rows), x.columns + self.layer_.output_size))
        for piece in walk(self.layer_, x):
            first = max(0, washout - piece.start)
            for k, z in enumerate(piece.features, start=piece.first_row):
                if self.pooling == "mean":
                    pooled[k] += z[first:].sum(0) / (len(x.rows[k]) - washout)
                elif len(z):
                    pooled[k] = z[-1]
        return pooled

    def decision_function(self, x: Data, *, lengths: Any = None) -> NDArray[np.float64]:
        """The readout of each class, (batch, classes): near 1 for the class that a sequence has, near 0 for others."""
        weights, bias = self._readout()
        found = self._read(x, lengths, self._input_size)
        return self._pooled(found, check_washout(self._washout, found)) @ weights + bias

    def predict(self, x: Data, *, lengths: Any = None) -> NDArray[Any]:
        """The class of each sequence, (batch,)."""
        return self.classes_[self.decision_function(x, lengths=lengths).argmax(1)]

    def score(self, x: Data, y: Any, *, lengths: Any = None) -> float:
        """The share of sequences whose class is found."""
        predicted = self.predict(x, lengths=lengths)
        return float((predicted == _labels(y, len(predicted))).mean())

    @property
    def _learned(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist(), "washout": self._washout}

    @_learned.setter
    def _learned(self, learned: dict[str, Any]) -> None:
        self.classes_, self._washout = np.array(learned["classes"]), int(learned["washout"])


def _labels(given: Any, count: int | None) -> NDArray[Any]:
    labels = np.asarray(given)
    if labels.ndim != 1 or (count is not None and len(labels) != count):
        raise ShapeError(f"y has shape {labels.shape}", expected=f"({count or 'classes'},), one class a sequence")
    if labels.dtype.kind not in "biufU" or (labels.dtype.kind == "f" and not np.isfinite(labels).all()):
        raise ArgumentError(f"classes of dtype {labels.dtype}", expected="numbers or strings, none missing")
    return labels


def _check_classes(classes: NDArray[Any]) -> None:
    if len(classes) < 2:
        raise ArgumentError(f"y holds {len(classes)} class", expected="two or more different ones")


def _check_known(labels: NDArray[Any], classes: NDArray[Any]) -> None:
    unknown = sorted(set(labels.tolist()) - set(classes.tolist()))
    if unknown:
        raise ArgumentError(f"y holds the class {unknown[0]!r}", expected=f"one of {classes.tolist()}")
