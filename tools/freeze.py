"""Print the installed version of every package that recurra's development needs, as lines of constraints.txt."""

from importlib.metadata import distributions

HEADER = "# Every version that the tests ran with (Linux, Python 3.11). `make constraints` writes this file."
# pip comes with the virtual environment, and recurra is what is being built.
LEFT_OUT = {"pip", "setuptools", "recurra"}


def frozen_lines() -> list[str]:
    """`name==version` of each installed package, without the local part (`+cpu`) that names one build of it."""
    versions = {dist.metadata["Name"]: dist.version.split("+")[0] for dist in distributions()}
    return sorted((f"{name}=={version}" for name, version in versions.items() if name not in LEFT_OUT), key=str.lower)


if __name__ == "__main__":
    print("\n".join([HEADER, *frozen_lines()]))
