"""Try every law on every cell and wrapper, on all sizes, and write the result as a table. Run through `make laws`."""

import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "laws.md"
SAMPLES = 6
MARKS = {"passed": "yes", "failed": "NO", "not applicable": "-"}

sys.path.insert(0, str(ROOT / "tests"))

import layers  # noqa: E402 - lies in tests/
from paper_peers import peer_of  # noqa: E402 - lies in tests/
from recurra.testing import Report, check_laws  # noqa: E402


def try_all() -> dict[str, Report]:
    """The report of each layer, by its name."""
    reports = {}
    for name, build in layers.ALL.items():
        print(f"{name} ...", end=" ", flush=True)
        layer = build()
        reports[name] = check_laws(layer, peer=peer_of(name, layer), samples=SAMPLES, raise_on_failure=False)
        print("FAILED" if reports[name].failures else "kept", flush=True)
        for failure in reports[name].failures:
            print("   ", failure)
    return reports


def table(reports: dict[str, Report]) -> str:
    """What stands in docs/laws.md: a row for each layer, a column for each law, and why a law does not apply."""
    laws = next(iter(reports.values())).results
    rows = [["layer", *(str(law.number) for law in laws)], ["---"] * (len(laws) + 1)]
    rows += [[name, *(MARKS[r.outcome] for r in report.results)] for name, report in reports.items()]
    reasons, notes = defaultdict(list), defaultdict(list)
    for name, report in reports.items():
        for result in report.results:
            if result.outcome == "not applicable":
                reasons[result.number, result.reason].append(name)
            elif result.outcome == "passed" and result.reason:
                notes[name, result.reason].append(str(result.number))
    return "\n".join(
        [
            "# The laws, and who keeps them",
            "",
            f"`make laws` writes this page. A law is tried on up to {SAMPLES} sizes of batch and time, in double and",
            "single precision; `recurra.testing.check_laws` does the same to any layer of yours.",
            "",
            *(f"{law.number}. {law.name}" for law in laws),
            "",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            "`-`: does not apply, because",
            "",
            *(
                f"- law {number}, {'every layer' if len(names) == len(reports) else ', '.join(names)}: {reason}"
                for (number, reason), names in sorted(reasons.items())
            ),
            "",
            "`yes`, but",
            "",
            *(f"- {name}, laws {', '.join(numbers)}: {note}" for (name, note), numbers in notes.items()),
            "",
        ]
    )


if __name__ == "__main__":
    found = try_all()
    TABLE.write_text(table(found), encoding="utf-8")
    broken = [name for name, report in found.items() if report.failures]
    if broken:
        sys.exit(f"{len(broken)} of {len(found)} layers break a law: {', '.join(broken)}")
    print(f"{len(found)} layers keep the laws; the table stands in {TABLE.relative_to(ROOT)}")
