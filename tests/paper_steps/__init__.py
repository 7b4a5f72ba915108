"""One numpy step for each cell, from the formulas of its paper: the other side of law 14."""
