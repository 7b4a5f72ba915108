"""The echo-state network: a target for every step (Jaeger 2001)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.errors import ArgumentError, RecurraError, ShapeError
from recurra.nn import Layer
from recurra.nn.layer import State
from recurra.reservoir.draw import Reservoir
from recurra.reservoir.estimator import ReservoirEstimator
from recurra.reservoir.ridge import Path
from recurra.reservoir.series import Sequences, check_washout, examples, in_order, read_sequences, read_targets, walk

Data = Any
"""(time, features), (batch, time, features), or a list of (time, features); float32 or float64."""


class EchoStateNetwork(ReservoirEstimator):
    """An echo-state network that puts out a value at every step, with the manners of scikit-learn.

    Sequences are (time, features), (batch, time, features) or a list of (time, features); targets have the same form,
    their last dimension may be missing where there is one output. float32 data run in float32, other data in float64;
    the readout is always solved in float64.

    Args:
        reservoir: the settings that the layer is drawn with; or any layer of recurra that reads forwards, as it is.
        regularisation: the ridge parameter, which is added to the diagonal of the sum of squares (Lukosevicius 2012,
            eq. 9, the bias left free); or several, all solved out of one decomposition, the best kept.
        forgetting: in (0, 1]; with each step what came before counts so many times as much. 1 forgets nothing.

    Attributes: `coef_`, `intercept_`, `regularisation_`, `scores_`, `criterion_`, `layer_`, `state_` (after the data of
    the last fit or partial_fit), `echo_state_`.

    Raises:
        ArgumentError: a setting outside its range.
    """

    task = "echo-state-network"
    state_: State

    def __init__(
        self,
        reservoir: Reservoir | Layer = Reservoir(),  # noqa: B008 - a frozen value
        *,
        regularisation: float | Sequence[float] = 1e-6,
        forgetting: float = 1.0,
    ) -> None:
        self.forgetting = forgetting
        super().__init__(reservoir, regularisation)

    def _check_settings(self) -> None:
        super()._check_settings()
        value = self.forgetting
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value <= 1:
            raise ArgumentError(f"forgetting is {value!r}", expected="more than 0, at most 1")

    def fit(
        self,
        x: Data,
        y: Data,
        *,
        washout: int = 0,
        lengths: Any = None,
        validation: tuple[Data, Data] | None = None,
    ) -> EchoStateNetwork:
        """Draw the reservoir, run it over the data, and solve the readout.

        Memory does not grow with the number of steps.

        Args:
            x: the inputs.
            y: a target for each step.
            washout: so many steps at the beginning of each sequence are run, but not learned from.
            lengths: (batch,), the valid steps of each row of a batch.
            validation: inputs and targets in any form, washed out likewise, on which the regularisation with the least
                error is chosen. Without it that is done by generalised cross-validation on the data themselves.

        Raises:
            ShapeError: a wrong shape or dtype, or targets that do not fit the inputs.
            ArgumentError: NaN or infinity (row and step are named), or a washout not shorter than every sequence.

        Warns:
            RecurraEchoStateWarning: the radius is 1 or more; what was measured is in the message.
        """
        found, targets, flat = self._read(x, y, lengths, None)
        washout = check_washout(washout, found)
        held_out = None
        if validation is not None:
            if not isinstance(validation, tuple | list) or len(validation) != 2:
                got = f"{len(validation)} parts" if isinstance(validation, tuple | list) else type(validation).__name__
                raise ArgumentError(
                    f"validation is a {got}",
                    expected="a pair",
                    advice="Give inputs and targets: validation=(x, y)",
                )
            held_out = self._read(*validation, None, found.columns)[:2]
            check_washout(washout, held_out[0])
            if held_out[1].columns != targets.columns:
                raise ShapeError(
                    f"the targets of validation have {held_out[1].columns} outputs", expected=str(targets.columns)
                )
        self._begin(found, targets.columns)
        self._flat = flat
        self._learn(found, targets, washout, None)
        if held_out is None:
            self._readout()
        else:
            path = self._collected().solve(self._regularisations())
            errors = np.sqrt(self._errors(path, *held_out, washout)).mean(1)
            self._choose(path, errors, "validation")
        return self

    def partial_fit(
        self, x: Data, y: Data, *, washout: int = 0, lengths: Any = None, state: State | None = None
    ) -> EchoStateNetwork:
        """Learn from more data; the readout is then that of all data together, as `fit` would have found it.

        Args:
            state: where these sequences go on, such as `state_` after the piece before; None to start afresh.
            x, y, washout, lengths: as in `fit`.

        Raises:
            ShapeError, ArgumentError: as `fit`; and when the estimator was loaded from a file that is not resumable.
        """
        found, targets, flat = self._read(x, y, lengths, self._input_size)
        washout = check_washout(washout, found)
        if not self._begun:
            self._begin(found, targets.columns)
            self._flat = flat
        outputs = len(self._collected().mean_y)
        if targets.columns != outputs:
            raise ShapeError(f"y has {targets.columns} outputs", expected=f"{outputs}, as before")
        self._learn(found, targets, washout, state)
        return self

    def _read(self, x: Data, y: Data, lengths: Any, columns: int | None) -> tuple[Sequences, Sequences, bool]:
        if columns is None and isinstance(self.reservoir, Layer):
            columns = self.reservoir.input_size
        found = read_sequences("x", x, lengths=lengths, columns=columns)
        targets, flat = read_targets(y, found, lengths=lengths)
        return found, targets, flat

    def _learn(self, x: Sequences, targets: Sequences, washout: int, state: State | None) -> None:
        moments = self._collected()
        states: dict[int, State] = {}
        for piece, z, y in examples(self.layer_, x, targets, washout, state):
            moments.add(z, y, self.forgetting)
            states[piece.first_row] = piece.state
        self.state_ = in_order(states)
        self._path = None

    def _errors(self, path: Path, x: Sequences, targets: Sequences, washout: int) -> NDArray[np.float64]:
        """Of each solution and output the mean square error in units of the output's variance."""
        squares = np.zeros(path.biases.shape)
        for _, z, y in examples(self.layer_, x, targets, washout):
            squares += ((z @ path.weights + path.biases[:, None] - y) ** 2).sum(1)
        kept = np.concatenate([row[washout:] for row in targets.rows]).astype(np.float64)
        variance = kept.var(0) * len(kept)
        return squares / np.where(variance > 0, variance, 1.0)

    def predict(self, x: Data, *, lengths: Any = None, state: State | None = None) -> Any:
        """The outputs at every step, in the form of x; zero in padding.

        `state` is where the sequences go on (`warm_up` gives one); None to start afresh. Raises ShapeError and
        ArgumentError as `fit`, and ArgumentError when it is not fitted.
        """
        weights, bias = self._readout()
        found = read_sequences("x", x, lengths=lengths, columns=self._input_size)
        rows = [np.empty((len(row), len(bias))) for row in found.rows]
        for piece in walk(self.layer_, found, state):
            for k, z in enumerate(piece.features):
                rows[piece.first_row + k][piece.start : piece.start + len(z)] = z @ weights + bias
        return found.like([row[:, 0] for row in rows] if self._flat else rows)

    def warm_up(self, x: Data, *, lengths: Any = None, state: State | None = None) -> State:
        """The state after the sequences: a value, for `predict`, `partial_fit` or `generate` to go on from."""
        self._readout()
        found = read_sequences("x", x, lengths=lengths, columns=self._input_size)
        return in_order({piece.first_row: piece.state for piece in walk(self.layer_, found, state)})

    def generate(self, x: Data, steps: int, *, state: State | None = None) -> NDArray[np.float64]:
        """Run freely after x: each output is the next input.

        Args:
            x: what the network reads first, one step or more: (time, features), or (batch, time, features).
            steps: how many values to generate; the first one is the prediction at the last step of x.
            state: where x goes on; None to start afresh.

        Returns:
            (steps, outputs), or (batch, steps, outputs); without the last dimension where the targets of fit had none.

        Raises:
            ShapeError: x does not fit, or the outputs are not as many as the inputs.
            ArgumentError: steps is less than 1, or the network is not fitted.
            RecurraError: the values grow beyond all bounds; the step is named.
        """
        weights, bias = self._readout()
        found = read_sequences("x", x, columns=self._input_size)
        if len(bias) != found.columns:
            raise ShapeError(f"the network has {len(bias)} outputs", expected=f"{found.columns}, one for each input")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ArgumentError(f"steps is {steps!r}", expected="a whole number from 1")
        states: dict[int, State] = {}
        last = np.empty((len(found.rows), len(weights)))
        for piece in walk(self.layer_, found, state):
            states[piece.first_row] = piece.state
            for k, z in enumerate(piece.features):
                last[piece.first_row + k] = z[-1] if len(z) else last[piece.first_row + k]
        after = in_order(states)
        values = [last @ weights + bias]
        with torch.no_grad(), np.errstate(over="ignore", invalid="ignore"):
            while len(values) < steps:
                frame = torch.as_tensor(values[-1], dtype=self._dtype)
                if not frame.isfinite().all():
                    raise RecurraError(
                        f"the generated values are {values[-1].ravel()[0]} at step {len(values) - 1}",
                        advice="A larger regularisation, or a smaller spectral radius, keeps them in bounds",
                    )
                h, after = self.layer_.step(frame, after)
                values.append(torch.cat([frame, h], 1).double().numpy() @ weights + bias)
        whole = np.stack(values, 1)
        whole = whole[..., 0] if self._flat else whole
        return whole[0] if found.form == "one" else whole

    def score(self, x: Data, y: Data, *, washout: int = 0, lengths: Any = None) -> float:
        """The coefficient of determination R^2, as scikit-learn has it, over all steps after the washout; the mean over
        the outputs."""
        found, targets, _ = self._read(x, y, lengths, self._input_size)
        washout = check_washout(washout, found)
        weights, bias = self._readout()
        path = Path(np.array([self.regularisation_]), weights[None], bias[None], np.zeros(1))
        return float(1 - self._errors(path, found, targets, washout).mean())

    @property
    def _learned(self) -> dict[str, Any]:
        return {"flat": self._flat}

    @_learned.setter
    def _learned(self, learned: dict[str, Any]) -> None:
        self._flat = bool(learned["flat"])
