"""A reservoir: how an echo-state network is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.cells import esn
from recurra.errors import ArgumentError
from recurra.nn import Recurrent
from recurra.reservoir.spectral import spectral_radius

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Reservoir:
    """The settings that an echo-state network is drawn with (Jaeger 2001; Lukosevicius 2012, section 3).

    Args:
        units: how many there are.
        spectral_radius: the largest modulus of an eigenvalue of the recurrent matrix. From 1 on states may fail to
            forget where they started from; the estimators then measure whether they do, and warn.
        leak: in (0, 1], how far a unit moves in one step; 1 is a unit without leak.
        density: in (0, 1], the share of recurrent weights that are not zero: the same number in each row, at random
            places, their values uniform before they are scaled to the radius.
        input_scaling: input weights are uniform in [-input_scaling, input_scaling].
        bias_scaling: likewise each unit's bias.
        seed: of everything that is drawn. The same settings always give the same reservoir.

    Raises:
        ArgumentError: a setting outside its range.
    """

    units: int = 500
    spectral_radius: float = 0.9
    leak: float = 0.3
    density: float = 0.1
    input_scaling: float = 1.0
    bias_scaling: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("units", "seed"):
            value, least = getattr(self, name), 1 if name == "units" else 0
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ArgumentError(f"{name} is {value!r}", expected=f"a whole number from {least}")
        for name in ("spectral_radius", "leak", "density", "input_scaling", "bias_scaling"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
                raise ArgumentError(f"{name} is {value!r}", expected="a finite number")
            if name in ("leak", "density") and not 0 < value <= 1:
                raise ArgumentError(f"{name} is {value!r}", expected="more than 0, at most 1")
            if value < 0:
                raise ArgumentError(f"{name} is {value!r}", expected="0 or more")

    def as_json(self) -> dict[str, int | float]:
        """The settings by name, as plain numbers."""
        kinds = {"int": int, "float": float}
        return {field.name: kinds[str(field.type)](getattr(self, field.name)) for field in fields(self)}

    def layer(self, input_size: int, *, dtype: torch.dtype = torch.float64) -> Recurrent:
        """The reservoir as a layer: the cell `esn`, its weights drawn and fixed."""
        layer = Recurrent(esn(leak=float(self.leak), density=float(self.density)), input_size, int(self.units)).to(
            dtype
        )
        generator = np.random.default_rng(self.seed)
        drawn = {
            "W": self._recurrent(generator),
            "W_in": self.input_scaling * generator.uniform(-1, 1, (self.units, input_size)),
            "b": self.bias_scaling * generator.uniform(-1, 1, self.units),
        }
        with torch.no_grad():
            for name, values in drawn.items():
                getattr(layer, name).copy_(torch.from_numpy(values))
        return layer.eval()

    def _recurrent(self, generator: np.random.Generator) -> Matrix:
        units = self.units
        connections = max(1, round(self.density * units))
        matrix = np.zeros((units, units))
        for row in matrix:
            row[generator.choice(units, connections, replace=False)] = generator.uniform(-1, 1, connections)
        # never zero: in a graph in which every unit reads another one there is a cycle
        return matrix * (self.spectral_radius / spectral_radius(matrix))
