"""How parameters start: what `initial=` takes besides numbers.

An argument may be the name of a hyperparameter of the cell. `recurra.nn.draws` does the drawing.
"""

from __future__ import annotations

from recurra.program.widths import Draw


def uniform(low: float | str, high: float | str) -> Draw:
    """Uniform in [low, high]."""
    return Draw("uniform", (low, high))


def log_uniform(low: float | str, high: float | str) -> Draw:
    """The exponential of a uniform draw in [log(low), log(high)]."""
    return Draw("log_uniform", (low, high))


def scaled_normal(scale: float | str = 1.0) -> Draw:
    """Normal, of variance scale^2 / columns (for a vector, scale^2)."""
    return Draw("scaled_normal", (scale,))


def spaced(first: float | str, last: float | str) -> Draw:
    """Equally spaced over the units, not random."""
    return Draw("spaced", (first, last))


def ring_decay(smallest: float | str, largest: float | str) -> Draw:
    """nu with exp(-exp(nu)) the modulus of a number that is uniform on a ring of these radii (Orvieto et al. 2023,
    section 3.2.2)."""
    return Draw("ring_decay", (smallest, largest))


def ring_phase(largest: float | str) -> Draw:
    """log(theta), theta uniform in [0, largest] (Orvieto et al. 2023, section 3.2.2)."""
    return Draw("ring_phase", (largest,))


def ring_scale(decay: str) -> Draw:
    """log(sqrt(1 - modulus^2)), the modulus being exp(-exp(nu)) of the parameter `decay` (Orvieto et al. 2023,
    eq. 7)."""
    return Draw("ring_scale", (decay,))


def gate_decay(low: float | str, high: float | str, power: float | str) -> Draw:
    """Lambda with sigmoid(Lambda)^power uniform in [low, high] (De et al. 2024, section 2.4)."""
    return Draw("gate_decay", (low, high, power))


def periods(modules: int | str) -> Draw:
    """1, 2, 4, ... for the units of each of so many equal modules (Koutnik et al. 2014, section 3); not random."""
    return Draw("periods", (modules,))


def slower_modules(modules: int | str) -> Draw:
    """A matrix of 1 where a unit of a module reads one of the same or a slower module, else 0 (Koutnik et al. 2014,
    section 3); not random."""
    return Draw("slower_modules", (modules,))
