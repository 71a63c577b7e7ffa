"""Run the pains row by row, beside what others do with them, and write docs/scoreboard.md.

    .venv/bin/python -m benchmarks.scoreboard

Every verdict is a comparison of what was read back in this run. Evidently is installed into an
environment of its own on the first run, as by `benchmarks.drift`.
"""

from __future__ import annotations

import os
import posixpath
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from resource import RUSAGE_CHILDREN, getrusage

import psutil

from benchmarks.bench import peak_mib, report, workspace
from benchmarks.drift import EVIDENTLY as EVIDENTLY_PACKAGES
from benchmarks.drift import evidently_python
from benchmarks.scoreboard.finding import (
    CONTENDERS,
    NOT_ITS_SUBJECT,
    OURS,
    PLAIN,
    STACKS,
    ZENML,
    Pain,
    Seen,
    verdict,
)
from benchmarks.scoreboard.rows import PAINS
from evergreen.settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "scoreboard.md"
_PACKAGES = (
    *("apache-airflow", "feast", "great-expectations", "mlflow", "duckdb", "pandas"),
    *("scikit-learn", "xgboost"),
)
_TEXT = """\
# Scoreboard

What hurts users of this stack, row by row: what others do with it, and what Evergreen does.
Written by `make scoreboard` (`.venv/bin/python -m benchmarks.scoreboard`): do not edit it, run it.
Every verdict is what was read back in that run, held against what passes; ours is reached as the
others' are, and would say so if it failed. A test that shows more is named in each row.

{cores} cores, {memory} GiB; {seconds} s, {peak} MiB at most in one process. {versions}.

- **pass**, **fail**: by default. *On request* is an option that somebody has to know and to set.
  **{not_its}**: not its subject.
- **Feast** is Feast with its own stores, **Evidently** its `DataDriftPreset`, **{plain}** what
  these do when nothing is built around them.
- **{zenml}** and **{stacks}** are the rules that [template-e2e-batch][zenml] and
  [databricks/mlops-stacks][stacks] publish for splitting, comparing, promoting, deploying and
  writing scores, each in a few lines that do the same. Neither ZenML nor Spark is run.

[zenml]: https://github.com/zenml-io/template-e2e-batch
[stacks]: https://github.com/databricks/mlops-stacks

## Verdicts

{verdicts}

## What was read back

{evidence}
"""


def main() -> None:
    """Run every row, write the page and `scoreboard.json`; fail if a row of ours does."""
    # Before the workspace, which is removed at the end.
    evidently_python()
    begun, seen, by_row = time.monotonic(), {}, {}
    with workspace("scoreboard") as settings:
        for pain in PAINS:
            started = time.monotonic()
            seen[pain.number] = pain.see(settings.home / "rows" / str(pain.number))
            by_row[pain.number] = round(time.monotonic() - started, 1)
            told = verdict(seen[pain.number], OURS)
            sys.stderr.write(f"{pain.number} {pain.name}: {told}, {by_row[pain.number]} s\n")
    verdicts = [
        (pain.number, pain.name, *(verdict(seen[pain.number], one) for one in CONTENDERS))
        for pain in PAINS
    ]
    columns = ("", "pain", *CONTENDERS)
    evidence = [
        (pain.number, pain.passes, _evidence(pain, seen[pain.number]), _more(pain))
        for pain in PAINS
    ]
    facts = {
        "cores": os.cpu_count(),
        "memory": round(psutil.virtual_memory().total / 2**30),
        "seconds": round(time.monotonic() - begun),
        "peak": round(max(peak_mib(), getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024)),
        "versions": ", ".join(
            [
                *(f"{package} {version(package)}" for package in _PACKAGES),
                # What else its environment holds is pinned for its sake.
                EVIDENTLY_PACKAGES[0].replace("==", " "),
            ]
        ),
    }
    page = _TEXT.format(
        **facts,
        not_its=NOT_ITS_SUBJECT,
        plain=PLAIN,
        zenml=ZENML,
        stacks=STACKS,
        verdicts=_table(columns, verdicts),
        evidence=_table(("", "passes", "read back", "more"), evidence),
    )
    PAGE.write_text(page)
    figures = {number: [asdict(one) for one in found] for number, found in seen.items()}
    report("scoreboard", "Pains", columns, verdicts, seen=figures, by_row=by_row, **facts)
    if failed := [number for number, _, *others in verdicts if others[-1] != "pass"]:
        raise SystemExit(f"Evergreen fails rows {failed}; expected none. See {PAGE}.")


def _evidence(pain: Pain, seen: Sequence[Seen]) -> str:
    told = []
    for contender in CONTENDERS:
        found = [
            one.found + " (on request)" * one.on_request
            for one in seen
            if one.contender == contender
        ]
        told += [f"{contender}: {'; '.join(found)}"] if found else []
    return "<br>".join([*told, *([f"*{pain.note}*"] if pain.note else [])])


def _more(pain: Pain) -> str:
    if pain.more.startswith("`"):
        return pain.more
    path = posixpath.relpath(pain.more, PAGE.parent.name)
    return f"[{posixpath.basename(path)}]({path})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
