"""Many runs at once, each result written down as it comes."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path

import torch

from recipes import results
from recipes.train import Outcome, Recipe, train

Run = tuple[Recipe, int]


def _prepare() -> None:
    """In each worker: one thread, for small networks lose time by two."""
    torch.set_num_threads(1)


def _run(recipe: Recipe, seed: int, torch_twin: bool) -> Outcome:
    return train(recipe, seed, torch_twin=torch_twin)


def run_all(runs: list[Run], file: Path, *, workers: int, torch_twin: bool) -> None:
    """Run what has no result yet, and say what came of each as it ends."""
    results.repair(file)
    known = results.read(file)
    pending = [run for run in runs if results.key(*run) not in known]
    if len(pending) < len(runs):
        print(f"{len(runs) - len(pending)} of {len(runs)} results are in {file} already", flush=True)
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare) as pool:
        futures = {pool.submit(_run, recipe, seed, torch_twin): (recipe, seed) for recipe, seed in pending}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                recipe, seed = futures[future]
                outcome = future.result()
                results.append(file, recipe, seed, outcome, datetime.now(UTC).isoformat(timespec="seconds"))
                print(
                    f"{number:4d}/{len(pending)} {time.monotonic() - began:6.0f} s  {recipe.task}, {recipe.arm}, "
                    f"seed {seed}: {'solved' if outcome.solved else 'not solved'} after {outcome.sequences:,} "
                    f"sequences, error {outcome.error:.4g}, {outcome.seconds:.1f} s",
                    flush=True,
                )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
