"""A hostile place to run in: memory starts as NaN, nondeterminism is an error, and so are warnings (pyproject.toml)."""

import os

# These are read when CUDA and OpenMP start, so they stand before torch is imported.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# The workers of pytest-xdist share the cores: a thread that waits must not keep one busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import random

import hypothesis
import numpy as np
import pytest
import torch

THREADS = 2

torch.set_num_threads(THREADS)
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True

# `repeatable` is the default: the same examples everywhere. `pytest --hypothesis-profile=explore` draws new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=30)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _same_start():
    """Give every test the same random numbers and thread count, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from numpy's global generator
    torch.manual_seed(0)
    yield
    torch.set_num_threads(THREADS)
