"""Processes that run one step each and are killed: at a chosen call, or at any moment.

Run as a program, this is the process that all others are forked from: it has imported everything,
so that a step starts at once, and holds no connection and no thread. It reads one command a line
and answers with two: the process it forked, and how that ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

# Calls at which something becomes visible to others, or stops being so.
# fmt: off
BOUNDARIES = frozenset(
    {
        "commit", "rollback", "execute", "executemany", "write_row", "write_table",
        "write_file", "rename", "replace", "unlink",
        "rmdir", "mkdir", "makedirs", "remove", "rmtree", "commit_table",
        "create_table", "create_namespace", "commit_transaction", "do_commit", "do_execute",
        "publish_chunk", "publish", "recording", "append", "drop_staging",
        "new_staging", "materialize", "log_batch", "log_inputs", "log_artifacts", "create_run",
        "set_terminated", "create_model_version", "create_registered_model",
        "set_registered_model_alias", "set_model_version_tag", "log_model", "project",
        "expire_snapshots", "by_ids",
    }
)
# fmt: on


# Connecting, importing and reading the declaration: a kill there is drawn often enough anyway.
_OPENING = ("_engine_for", "connect", "_client", "<module>", "use_case.", "elsewhere")
_VALUES = (str, bytes, bytearray, list, dict, set)


def _watch(kill_at: int | None, boundaries: bool, where: Path) -> list[int]:
    """Count calls of this process's main thread, and end it at the chosen one."""
    seen = [0]

    def tick(frame: FrameType, event: str, argument: Any) -> None:
        if boundaries:
            called_c = event.startswith("c_")
            name = argument.__name__ if called_c else frame.f_code.co_name
            # Appending to a list or replacing in a text is nothing others see.
            if name not in BOUNDARIES:
                return
            if called_c and isinstance(getattr(argument, "__self__", None), _VALUES):
                return
            if any(part in _place(frame) for part in _OPENING):
                return
        elif event not in ("call", "c_call"):
            return
        seen[0] += 1
        if seen[0] == kill_at:
            where.write_text(_place(frame))
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(tick)
    return seen


def _place(frame: FrameType | None) -> str:
    """Name the innermost function of the package on the stack."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("evergreen."):
            return f"{module.removeprefix('evergreen.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "elsewhere"


def _child(command: dict[str, Any]) -> None:
    import importlib

    out = Path(command["out"])
    for name in [name for name in os.environ if name.startswith("EVERGREEN_")]:
        del os.environ[name]
    os.environ.update(command["environment"])
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    module, _, name = command["task"].rpartition(".")
    task = getattr(importlib.import_module(module or "evergreen.steps"), name)
    answer: dict[str, Any]
    seen = [0]
    try:
        if command["watch"]:
            seen = _watch(command["kill_at"], command["boundaries"], out.with_suffix(".where"))
        try:
            answer = {"result": task(*command["arguments"])}
        finally:
            sys.setprofile(None)
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
        traceback.print_exc()
    answer["calls"] = seen[0]
    unfinished = out.with_suffix(".part")
    unfinished.write_text(json.dumps(answer))
    unfinished.replace(out)


def _serve() -> None:
    running: dict[int, tuple[int, str]] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([0, *running], [], [])
        for descriptor in ready:
            if descriptor:
                pid, identity = running.pop(descriptor)
                os.close(descriptor)
                _, status = os.waitpid(pid, 0)
                _say({"id": identity, "ended": os.waitstatus_to_exitcode(status)})
                continue
            read = os.read(0, 1 << 20)
            if not read:
                return
            *lines, buffer = (buffer + read).split(b"\n")
            for line in lines:
                command = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    code = 1
                    try:
                        _child(command)
                        code = 0
                    finally:
                        os._exit(code)
                running[os.pidfd_open(pid)] = (pid, command["id"])
                _say({"id": command["id"], "pid": pid})


def _say(message: dict[str, Any]) -> None:
    os.write(3, json.dumps(message).encode() + b"\n")


def _import_everything() -> None:
    import importlib

    for module in (
        *("lake", "provenance.receipts", "provenance.staleness"),
        *("features.store", "features.compute.run"),
        *("quality.split", "quality.validate", "sources", "steps", "scoring.score"),
        *("training.challenger", "monitoring.verdict", "release.promote"),
    ):
        importlib.import_module(f"evergreen.{module}")
    for module in sys.argv[1:]:
        try:
            importlib.import_module(module)
        except Exception:
            continue


if __name__ == "__main__":
    # Answers go through a descriptor of their own; whatever prints cannot disturb them.
    os.dup2(1, 3)
    os.dup2(2, 1)
    os.set_inheritable(3, False)
    _import_everything()
    _say({"id": "ready", "pid": os.getpid()})
    _serve()
