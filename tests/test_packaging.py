"""What an installed recurra promises: a light import, its public names, its command, its build."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import recurra
from house import ROOT, needs_source_tree, python_files, syntax_tree

IMPORT_SECONDS = 0.1


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_is_quick_and_loads_neither_torch_nor_numpy():
    code = (
        "import sys, time; start = time.process_time(); import recurra; seconds = time.process_time() - start\n"
        "assert not {'torch', 'numpy', 'lightning'} & sys.modules.keys(), 'import recurra loads a heavy package'\n"
        "print(seconds)"
    )
    # Processor time, and the quickest of several: the machine may be busy with other things.
    assert min(float(run_python(code)) for _ in range(5)) < IMPORT_SECONDS


@pytest.mark.parametrize("name", recurra.__all__)
def test_every_public_name_loads(name: str):
    assert getattr(recurra, name) is not None
    assert name in dir(recurra)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'; it has .*backends"):
        recurra.nonsense  # noqa: B018 - the access is what is tested


def test_version_is_the_installed_one():
    assert recurra.__version__ == metadata.version("recurra")


def test_package_is_typed():
    assert (Path(recurra.__file__).parent / "py.typed").is_file()


def test_command_is_installed():
    (command,) = (entry for entry in metadata.distribution("recurra").entry_points if entry.name == "recurra")
    assert callable(command.load())


def declared_requirements() -> list[Requirement]:
    """What pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    requirements = [Requirement(line) for line in [*project["dependencies"], *extras]]
    return [requirement for requirement in requirements if requirement.name != "recurra"]


@needs_source_tree
def test_constraints_fit_the_declared_ranges():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pinned[canonical(name)] = version
    wrong = [
        str(requirement)
        for requirement in declared_requirements()
        if not requirement.specifier.contains(pinned.get(canonical(requirement.name), "0"))
    ]
    assert not wrong, f"constraints.txt has no fitting version for {wrong}"


@needs_source_tree
def test_every_package_that_is_imported_is_declared():
    declared = {canonical(requirement.name) for requirement in declared_requirements()}
    distributions = metadata.packages_distributions()
    own = {name for path in python_files("tests", "benchmarks") for name in (path.stem, path.parent.name)} | {
        "recurra",
        "recipes",
        "mutants",
    }
    undeclared = []
    for path in python_files("src", "tests", "tools"):
        for name in sorted(imported_packages(path) - own - sys.stdlib_module_names):
            if declared.isdisjoint(canonical(distribution) for distribution in distributions.get(name, [name])):
                undeclared.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not undeclared, "not in pyproject.toml:\n" + "\n".join(undeclared)


def imported_packages(path: Path) -> set[str]:
    """The top-level packages that a file imports, its own relatives left out."""
    names = set()
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """The files that a build reads, without any earlier build."""
    for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("src", "csrc"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def build_wheel(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    return subprocess.run(command, cwd=tree, env=os.environ | environment, capture_output=True, text=True)


@needs_source_tree
def test_without_a_compiler_the_build_succeeds_and_says_what_is_missing(copied_tree: Path):
    pytest.importorskip("scikit_build_core")
    result = build_wheel(copied_tree, CXX="/nonexistent", RECURRA_REQUIRE_ENGINE="")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [path.name for path in (copied_tree / "dist").iterdir()] == [
        f"recurra-{recurra.__version__}-py3-none-any.whl"
    ]
    assert "WITHOUT its native engine" in result.stdout + result.stderr


@needs_source_tree
def test_a_required_engine_that_cannot_be_built_fails_the_build(copied_tree: Path):
    pytest.importorskip("scikit_build_core")
    result = build_wheel(copied_tree, CXX="/nonexistent", RECURRA_REQUIRE_ENGINE="1")
    assert result.returncode != 0
    assert not list((copied_tree / "dist").glob("*.whl"))
