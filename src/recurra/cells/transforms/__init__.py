"""Transforms: functions from a cell to a new cell. They rewrite its programs, so each works on every
cell, and they compose."""

from recurra.cells.transforms.books import LEVELS as LEVELS
from recurra.cells.transforms.books import check_probability as check_probability
from recurra.cells.transforms.noise import random_initial_state as random_initial_state
from recurra.cells.transforms.noise import recurrent_dropout as recurrent_dropout
from recurra.cells.transforms.noise import zoneout as zoneout
from recurra.cells.transforms.norms import layer_norm as layer_norm
from recurra.cells.transforms.norms import rms_norm as rms_norm
from recurra.cells.transforms.starts import learned_initial_state as learned_initial_state
