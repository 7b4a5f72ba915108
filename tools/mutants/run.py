"""Runs the subjects of every kind in child processes, and keeps what is done in a file, so that a run can go on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mutants.build import ROOT

LONGEST = 300.0
"""Seconds without an answer after which a mutant counts as one that never ends."""


@dataclass(frozen=True)
class Task:
    """The mutants of one subject, up to a number of them."""

    kind: str
    subject: str
    limit: int | None = None


def digest() -> str:
    """What results depend on: the sources of the package, the engine, the tests and this tool."""
    total = hashlib.sha256()
    for folder, pattern in (("src", "*.py"), ("csrc", "*.?pp"), ("tests", "*.py"), ("tools/mutants", "*.py")):
        for path in sorted((ROOT / folder).rglob(pattern)):
            total.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:16]


class Child:
    """A process that tries mutants of one kind. It may die of one."""

    def __init__(self, kind: str) -> None:
        paths = [str(ROOT / "tools"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "PASSIVE"}
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mutants.child", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def answers(self, task: Task, skip: int) -> Iterator[dict[str, Any]]:
        """What the process says of a subject; ends early where it dies or hangs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"subject": task.subject, "skip": skip, "limit": task.limit})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        while True:
            timer = threading.Timer(LONGEST, self._process.kill)
            timer.start()
            answer = self._process.stdout.readline()
            timer.cancel()
            if not answer:
                return
            said = json.loads(answer)
            yield said
            if "end" in said:
                return

    def close(self) -> int:
        """Its exit status: below zero where a signal ended it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait()


class Runner:
    """Shares the tasks out between threads, each with a child, and says how far it is."""

    def __init__(self, file: Path, count: int) -> None:
        self.file, self.count = file, count
        self.done = 0
        self.results: list[dict[str, Any]] = []
        self._digest = digest()
        self._lock = threading.Lock()
        self._faults: list[str] = []

    def run(self, tasks: list[Task], workers: int) -> list[dict[str, Any]]:
        """The outcomes of all tasks, those of the file included. Raises RuntimeError where a child cannot begin."""
        known = self._known()
        waiting: SimpleQueue[Task] = SimpleQueue()
        for task in tasks:
            found = known.get((task.kind, task.subject, task.limit))
            if found is None:
                waiting.put(task)
            else:
                self._finish(task, found, write=False)
        threads = [threading.Thread(target=self._work, args=(waiting,)) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._faults:
            raise RuntimeError("; ".join(self._faults))
        return self.results

    def _known(self) -> dict[tuple[str, str, int | None], list[dict[str, Any]]]:
        if not self.file.exists():
            return {}
        # a last line that a kill cut short is left out
        whole, _, _ = self.file.read_text(encoding="utf-8").rpartition("\n")
        records = [json.loads(line) for line in whole.splitlines()]
        fresh = [r for r in records if r["digest"] == self._digest]
        if len(fresh) < len(records) or not whole:
            self.file.write_text("".join(json.dumps(r) + "\n" for r in fresh), encoding="utf-8")
        return {(r["kind"], r["subject"], r["limit"]): r["outcomes"] for r in fresh}

    def _finish(self, task: Task, outcomes: list[dict[str, Any]], write: bool = True) -> None:
        with self._lock:
            self.results += outcomes
            self.done += 1
            survived = [o for o in outcomes if o["fate"] == "survived"]
            print(f"[{self.done}/{self.count}] {task.kind}: {task.subject}: {len(outcomes)} mutants", flush=True)
            for outcome in survived:
                print(f"    SURVIVED  {outcome['change']}", flush=True)
            if write:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                record = {"digest": self._digest, "kind": task.kind, "subject": task.subject, "limit": task.limit}
                with self.file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({**record, "outcomes": outcomes}) + "\n")

    def _work(self, waiting: SimpleQueue[Task]) -> None:
        child: Child | None = None
        while not self._faults:
            try:
                task = waiting.get_nowait()
            except Empty:
                break
            if child is None or child.kind != task.kind:
                if child is not None:
                    child.close()
                child = Child(task.kind)
            child = self._try(task, child)
        if child is not None:
            child.close()

    def _try(self, task: Task, child: Child) -> Child:
        outcomes: list[dict[str, Any]] = []
        while True:
            trying, ended = "", False
            for said in child.answers(task, len(outcomes)):
                trying = said.get("trying", trying)
                ended = "end" in said
                if "outcome" in said:
                    outcomes.append(said["outcome"])
                    trying = ""
            if ended:
                self._finish(task, outcomes)
                return child
            status, child = child.close(), Child(task.kind)
            if status >= 0 or not trying:
                self._faults.append(f"{task.kind}, {task.subject}: the tool failed, as its process says above")
                return child
            dead = {"kind": task.kind, "subject": task.subject, "change": trying, "fate": "caught"}
            outcomes.append({**dead, "by": "the process died or did not end"})
