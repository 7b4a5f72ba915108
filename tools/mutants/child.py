"""Tries mutants in a process of its own: `python -m mutants.child KIND`, a line of JSON in for each subject, lines of
JSON out for each of its mutants, before and after."""

import json
import os
import sys
import warnings
from importlib import import_module

from mutants import build


def main(kind: str) -> None:
    """Answers until there are no more subjects. What tests print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if kind == "opcodes":
        # before anything loads the right engine
        build.load()
    import torch

    torch.set_num_threads(1)
    # a mutant divides by zero as it likes
    warnings.simplefilter("ignore")
    module = import_module(f"mutants.{kind}")
    for line in sys.stdin:
        task = json.loads(line)
        for found in module.try_subject(task["subject"], task["skip"], task["limit"]):
            said = {"trying": found} if isinstance(found, str) else {"outcome": found.as_dict()}
            answers.write(json.dumps(said) + "\n")
            answers.flush()
        answers.write('{"end": true}\n')
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
