"""Ingestion of one table: source rows to the table and to `quarantine`."""

from __future__ import annotations

import time
from typing import Any

from evergreen.contract import Period, UseCase, load_use_case
from evergreen.errors import ConfigError, ValidationError
from evergreen.provenance.staging import Staged, drop_staging, new_staging


def stage_rows(
    use_case: str,
    period: str,
    table: str,
    run: str | None = None,
    without_data: str = "",
    decided_by: str = "",
    decided_at: str = "",
) -> dict[str, Any]:
    """Read the source's rows of the period and split them into accepted and quarantined.

    A reason in `without_data` is somebody's decision that the source has nothing for the period
    and never will.
    """
    from evergreen.provenance import receipts
    from evergreen.quality import delivery

    started = time.monotonic()
    declared, wanted = load_use_case(use_case), Period.parse(period)
    _require_days_with_data(declared, wanted)
    staged = Staged(
        use_case,
        wanted.label,
        new_staging(use_case, table, wanted.label, run),
        facts={"table": table},
        basis=receipts.newest_sequence(),
    )
    decided = {"reason": without_data, "decided_by": decided_by, "decided_at": decided_at}
    split = delivery.stage(declared.tables[table], staged, decided if without_data else None)
    return split.with_seconds(started).to_dict()


def validate_rows(staged: dict[str, Any]) -> dict[str, Any]:
    """Hold the accepted rows against the contract and each day against the batch rules.

    Refused days are kept in the table `refused`; the others are passed on.
    """
    from evergreen.quality import delivery

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    table = batch.load_use_case().tables[batch.facts["table"]]
    return delivery.judge(table, batch).with_seconds(started).to_dict()


def publish_rows(staged: dict[str, Any]) -> dict[str, Any]:
    """Replace the period's days of `quarantine` and of the table, which is committed last.

    Fails at the end if days of the period were refused, so that nobody takes them for loaded.
    """
    from evergreen.quality import delivery

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    table = batch.load_use_case().tables[batch.facts["table"]]
    batch.require_unchanged()
    snapshot, refused = 0, delivery.refused_days(batch.use_case, table)
    for chunk in batch.periods():
        snapshot = delivery.publish(table, batch.with_seconds(started), chunk, refused)
    drop_staging(batch.folder)
    if "refused" in batch.facts:
        raise ValidationError(batch.facts["refused"])
    totals: dict[str, int] = {}
    for counts in batch.counts.values():
        for name, value in counts.items():
            totals[name] = totals.get(name, 0) + value
    return {
        "use_case": batch.use_case,
        "table": table.name,
        "period": batch.period,
        "snapshot": snapshot,
        "rows": totals,
        "broken_rules": batch.facts["broken_rules"],
    }


def _require_days_with_data(use_case: UseCase, period: Period) -> None:
    from evergreen.provenance import receipts

    # The one look at a clock of the chain: a day that has not ended has no complete partition.
    now = receipts.now()
    if use_case.as_of(period.last) > now:
        raise ConfigError(
            f"The day {period.last} has not ended yet in {use_case.zone} (it is "
            f"{now:%Y-%m-%d %H:%M} UTC). Ask for days up to yesterday."
        )
    if period.start < use_case.first_day:
        raise ConfigError(
            f"{use_case.name} has data from {use_case.first_day} on (first_day in use_case.yaml); "
            f"found {period.label}. Ask for later days, or declare an earlier first_day."
        )
    if use_case.last_day is not None and period.last > use_case.last_day:
        raise ConfigError(
            f"The data of {use_case.name} end on {use_case.last_day} (last_day in use_case.yaml); "
            f"found {period.label}. Ask for earlier days, or declare a later last_day."
        )
