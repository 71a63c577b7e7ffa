"""What one run of a DAG has published, by its receipts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from evergreen.contract import Period, UseCase
from evergreen.errors import ConfigError
from evergreen.provenance import receipts
from evergreen.provenance.receipts import Receipt
from evergreen.views.lineage import replay_command
from evergreen.views.remembered import remembered

# Of one run over years of days, the newest are shown.
_MOST = 500
_LABELS = "publish_labels"


@dataclass(frozen=True)
class RunReceipt:
    """One day that was published; snapshot ids have 64 bits, too many for JSON's readers."""

    sequence: int
    step: str
    day: date
    output_table: str
    output_snapshot: str
    counts: dict[str, int]
    inputs: dict[str, str]
    content: str
    code_digest: str
    lock_digest: str
    seconds: float
    recorded_at: datetime | None
    replay: str


@dataclass(frozen=True)
class RunReceipts:
    """What a run has published, newest day first; `note` says why there is nothing, or not all."""

    dag_id: str
    run_id: str
    use_case: str
    what: str
    receipts: list[RunReceipt]
    note: str


def steps_of(use_case: UseCase, stage: str) -> list[str]:
    """Return the steps of a stage's DAG that leave receipts."""
    delivered = [
        f"publish_{table}{suffix}" for table in use_case.tables for suffix in ("", "_quarantine")
    ]
    computed = ["publish_features", _LABELS]
    return {
        "ingest": delivered,
        "features": computed,
        "labels": [_LABELS],
        "history": [*delivered, *computed],
        "score": ["publish_predictions"],
        "release": ["publish_predictions"],
        "train": ["accept_request", "fail_request", "judge_challenger"],
        "monitor": [
            *(f"measure_{what}" for what in _MEASURED),
            *("log_served", "decide_retraining", "measure_effect"),
        ],
    }.get(stage, [])


_MEASURED = ("drift", "performance", "freshness", "skew", "staleness", "estimates")


@remembered
def run_receipts(
    use_case: UseCase,
    dag_id: str,
    run_id: str,
    what: str,
    begun: datetime | None = None,
    ended: datetime | None = None,
) -> RunReceipts:
    """Return the receipts of a run.

    Parameters
    ----------
    what
        The day or period that it ran for: its partition key, or what its form was given.
    begun, ended
        When it began and ended: receipts of other runs for the same are not its own.
    """
    stage = dag_id.removeprefix(f"{use_case.name}_")
    steps = steps_of(use_case, stage)
    try:
        period = Period.parse(what)
    except ConfigError:
        note = "The run is for no day, so no receipt is its own."
        return RunReceipts(dag_id, run_id, use_case.name, what, [], note)
    found = receipts.of_steps(
        use_case.name, [step for step in steps if step != _LABELS], what, begun, ended
    )
    if _LABELS in steps:
        # They are receipted for the days whose horizon the run's days complete.
        horizon = timedelta(days=use_case.target.horizon_days)
        start, end = period.start - horizon, period.end - horizon
        found += receipts.of_days(use_case.name, _LABELS, start, end, begun, ended)
    if not found:
        note = (
            f"Nothing was published for {what} since the run began: it is still at work, it failed "
            "or was skipped, or what it made says the same as before."
        )
    else:
        more = len(found) - _MOST
        note = f"{more:,} more are in the table `receipts`." if more > 0 else ""
    return RunReceipts(dag_id, run_id, use_case.name, what, _shown(found), note)


def _shown(found: Sequence[Receipt]) -> list[RunReceipt]:
    return [
        RunReceipt(
            *(receipt.sequence, receipt.step, receipt.day, receipt.output_table),
            str(receipt.output_snapshot),
            dict(receipt.counts),
            {name: str(value) for name, value in receipt.inputs.items()},
            *(receipt.content, receipt.code_digest, receipt.lock_digest, receipt.seconds),
            receipt.recorded_at,
            replay_command(receipt),
        )
        for receipt in sorted(found, key=lambda one: (one.day, one.sequence), reverse=True)[:_MOST]
    ]
