"""The scripts in benchmarks/ are no part of the package: what the package no longer has must not break them unseen."""

import subprocess
import sys

from house import ROOT, needs_source_tree

pytestmark = needs_source_tree

IMPORT_ALL = """
import os, runpy, sys, warnings
sys.path.insert(0, os.path.dirname(sys.argv[1]))
warnings.simplefilter("error")
loaded = {path.rpartition("/")[2]: runpy.run_path(path, run_name="imported") for path in sys.argv[1:]}
words = ["--out=/x/runs", "/x/y z/input.txt", "--minutes", "3"]
command = loaded["portable_commands.py"]["portable"]("tinyshakespeare.py", words)
assert command.endswith("tinyshakespeare.py --out=PATH/TO/runs PATH/TO/input.txt --minutes 3"), command
"""


def test_every_benchmark_can_be_imported_and_names_no_machine():
    scripts = sorted((ROOT / "benchmarks").glob("*.py"))
    assert scripts
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *map(str, scripts)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
