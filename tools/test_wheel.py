"""Build the source distribution and, from it, the wheel; then test the wheel as a user would get it.

The wheel is installed into a clean virtual environment and tested from a folder outside the source tree, so that
nothing can be found there that was not packaged. Run through `make wheel`; the two files stay in dist/.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, cwd=cwd, env=os.environ | environment, check=True)


def build() -> tuple[Path, Path]:
    """The source distribution and the wheel that was built from it."""
    shutil.rmtree(DIST, ignore_errors=True)
    # PIP_CONSTRAINT reaches the pip that fills the isolated build environment.
    run(sys.executable, "-m", "build", PIP_CONSTRAINT=str(CONSTRAINTS), RECURRA_REQUIRE_ENGINE="1")
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """Both files hold what they need and nothing that is only for developers."""
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        packaged = set(archive.namelist())
    missing = {"CMakeLists.txt", "LICENSE", "csrc/engine.cpp", "src/recurra/py.typed", "tests/conftest.py"} - sources
    if missing:
        sys.exit(f"{sdist.name} lacks {sorted(missing)}")
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "recurra").rglob("*.py")}
    missing = (modules | {"recurra/py.typed"}) - packaged
    if missing:
        sys.exit(f"{wheel.name} lacks {sorted(missing)}")
    if not any(name.startswith("recurra/_engine.") and name.endswith((".so", ".pyd")) for name in packaged):
        sys.exit(f"{wheel.name} lacks the native engine")
    foreign = {name for name in packaged if not name.startswith(("recurra/", "recurra-"))}
    if foreign:
        sys.exit(f"{wheel.name} would install {sorted(foreign)}")


def test_installed(wheel: Path) -> None:
    """Install the wheel into a clean environment and run the tests against it."""
    with tempfile.TemporaryDirectory(prefix="recurra-wheel-") as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        # torch alone first, as in the Makefile.
        run(python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, "torch")
        run(python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, f"{wheel}[test]")
        run(python, "-m", "pip", "check")
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
        run(python, "-m", "pytest", "-n", "2", "-q", cwd=folder)
        run(folder / "venv" / "bin" / "recurra", "--help", cwd=folder)


if __name__ == "__main__":
    built = build()
    check_contents(*built)
    test_installed(built[1])
    print("tested:", *(path.relative_to(ROOT) for path in built))
