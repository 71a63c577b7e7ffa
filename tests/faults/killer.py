"""Runs steps as Airflow does, one process each with retries, and kills many of the attempts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_shop import NAME, RUNS

_KILLED = -signal.SIGKILL
_PATIENCE_SECONDS = 120


class Nursery:
    """The process that all steps are forked from; see `killed`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EVERGREEN_")}
        environment |= {
            # Fewer threads to start in each child; two drivers share two cores.
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"), "1"),
            "PYICEBERG_MAX_WORKERS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TMPDIR": str(folder / "tmp"),
        }
        (folder / "tmp").mkdir(parents=True)
        with (folder / "nursery.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("killed.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        self._numbers = itertools.count()
        self._sending = threading.Lock()
        self._answers: dict[str, queue.Queue[dict[str, Any]]] = {"ready": queue.Queue()}
        threading.Thread(target=self._listen, daemon=True).start()
        self._answers["ready"].get(timeout=_PATIENCE_SECONDS)

    def fork(self, command: dict[str, Any], kill_after: float | None = None) -> dict[str, Any]:
        """Run one command; kill it from outside after some seconds if it is still there then."""
        identity = str(next(self._numbers))
        out = self.folder / f"{identity}.json"
        answers = self._answers[identity] = queue.Queue()
        line = {"id": identity, "out": str(out), **command}
        with self._sending:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
        pid = answers.get(timeout=_PATIENCE_SECONDS)["pid"]
        if kill_after is not None:
            try:
                ended = answers.get(timeout=kill_after)["ended"]
            except queue.Empty:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                ended = answers.get(timeout=_PATIENCE_SECONDS)["ended"]
        else:
            ended = answers.get(timeout=_PATIENCE_SECONDS)["ended"]
        del self._answers[identity]
        log = out.with_suffix(".log").read_text() if out.with_suffix(".log").exists() else ""
        where = out.with_suffix(".where")
        answer = json.loads(out.read_text()) if ended == 0 else {}
        answer |= {"ended": ended, "log": log}
        answer["where"] = where.read_text() if where.exists() else "at any moment"
        for path in self.folder.glob(f"{identity}.*"):
            path.unlink()
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            self._answers[message["id"]].put(message)


@dataclass
class Tally:
    """What happened, for the report."""

    kills: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    manners: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    finished: int = 0
    cycles: int = 0
    orphans: int = 0
    leftovers: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.kills.total()

    def lines(self) -> list[str]:
        """Say it."""
        rate = self.seconds / max(1, self.total)
        return [
            f"{self.total} kills in {self.cycles} cycles, {self.attempts} processes for "
            f"{self.finished} tasks; {self.seconds:.0f} s, {rate:.2f} s per kill",
            "by task: " + _counted(self.kills),
            "by manner: " + _counted(self.manners),
            f"by place ({len(self.places)}): " + _counted(self.places, 15),
            f"data files that no snapshot names, for maintenance: {self.orphans}; forgotten "
            f"folders in the system's temporary directory: {self.leftovers}",
        ]


@dataclass(frozen=True)
class Size:
    """How long a task is: all calls, calls at boundaries, seconds."""

    calls: int
    boundaries: int
    seconds: float


class Killer:
    """Does tasks until they succeed, and kills attempts at random on the way.

    Parameters
    ----------
    chance
        Of an attempt to be killed; at most four attempts of a task are.
    check
        Called after every kill.
    """

    def __init__(self, nursery: Nursery, seed: int, tally: Tally, chance: float = 0.6) -> None:
        self.nursery, self.random, self.tally, self.chance = (
            nursery,
            random.Random(seed),
            tally,
            chance,
        )
        self.check: Callable[[], None] = lambda: None
        self.sizes: dict[str, Size] = {}

    def measure(self, task: str, *arguments: Any) -> Any:
        """Do a task without killing it, and learn how long it is."""
        started = time.monotonic()
        answer = self._fork(task, arguments, watch=False)
        seconds = time.monotonic() - started
        counted = [
            self._fork(task, arguments, boundaries=boundaries)["calls"]
            for boundaries in (False, True)
        ]
        self.sizes[task] = Size(counted[0], counted[1], seconds)
        return answer["result"]

    def do(self, task: str, *arguments: Any) -> Any:
        """Do a task as Airflow does: again after each kill, and again while it has to wait."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        kills = 0
        while True:
            answer = self._attempt(task, arguments, kill=kills < 4)
            if answer["ended"] == _KILLED:
                kills += 1
                self.check()
            elif "result" in answer:
                self.tally.finished += 1
                return answer["result"]
            elif answer.get("error") in ("BusyError", "GapError", "ServiceDownError"):
                assert time.monotonic() < deadline, answer["message"]
                time.sleep(0.2)
            else:
                raise AssertionError(f"{task}{arguments} failed for good:\n{answer['log']}")

    def _attempt(self, task: str, arguments: tuple[Any, ...], *, kill: bool) -> dict[str, Any]:
        size = self.sizes.get(task)
        self.tally.attempts += 1
        if size is None or not kill or self.random.random() > self.chance:
            return self._fork(task, arguments, watch=False)
        manner = self.random.choices(("call", "boundary", "signal"), (35, 45, 20))[0]
        if manner == "signal":
            after = self.random.uniform(0.01, size.seconds)
            answer = self._fork(task, arguments, watch=False, kill_after=after)
        else:
            count = size.boundaries if manner == "boundary" else size.calls
            answer = self._fork(
                task,
                arguments,
                boundaries=manner == "boundary",
                kill_at=self.random.randint(1, max(1, count)),
            )
        if answer["ended"] == _KILLED:
            self.tally.kills[task] += 1
            self.tally.manners[manner] += 1
            self.tally.places[answer["where"]] += 1
        return answer

    def _fork(
        self,
        task: str,
        arguments: tuple[Any, ...],
        *,
        watch: bool = True,
        boundaries: bool = False,
        kill_at: int | None = None,
        kill_after: float | None = None,
    ) -> dict[str, Any]:
        command = {
            "task": task,
            "arguments": arguments,
            "watch": watch,
            "boundaries": boundaries,
            "kill_at": kill_at,
            "environment": {k: v for k, v in os.environ.items() if k.startswith("EVERGREEN_")},
        }
        answer = self.nursery.fork(command, kill_after)
        assert answer["ended"] in (0, _KILLED), f"{task} ended with {answer['ended']}"
        return answer


Do = Callable[..., Any]


def run(do: Do, kind: str, period: str, identity: str) -> Any:
    """Do one DAG run, task by task."""
    result: Any = None
    published: Any = None
    for task in RUNS[kind]:
        if task == "stage_rows":
            result = do(task, NAME, period, "orders", identity)
        elif task == "compute_features":
            result = do(task, NAME, period, identity)
        elif task == "resolve_model":
            result = do(task, NAME, period)
        elif task == "score_customers":
            result = do(task, result, identity)
        elif published is not None:
            do(task, published)
        else:
            result = do(task, result)
            published = result if task == "publish_features" else None
    return result


def _counted(counter: Counter[str], most: int | None = None) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common(most))
