"""Which version of a day was known when another day was processed.

Corrections rewrite days. A model that is trained for a day must not learn from what was corrected
after that day: when it scored, nobody knew. So a training set for day D reads every day as it stood
when D was first processed. A day that was first loaded later than that (history that was
backfilled) is read as it was first loaded.

A changed declaration is no correction: only versions made by the same declaration are compared.
What an erasure has made unreadable is not known any more: such days are read as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from evergreen.contract import UseCase
from evergreen.provenance import erased, receipts
from evergreen.provenance.receipts import Trace


def pins_of(use_case: UseCase, day: date, days: Sequence[date]) -> dict[str, dict[date, int]]:
    """Return the snapshots at which `features` and `labels` say what was known on `day`.

    Parameters
    ----------
    day
        The day that is trained for.
    days
        The as-of days of its training set.

    Returns
    -------
    dict[str, dict[date, int]]
        Per table the days that have been corrected since, and the snapshot to read each at (0: it
        had no rows). Days that still say what they said then are absent.
    """
    matured = day - timedelta(days=use_case.target.horizon_days)
    owner = use_case.owner_of("features")
    features = receipts.traces(owner, "publish_features")["publish_features"]
    labels = receipts.traces(use_case.name, "publish_labels")["publish_labels"]
    return {
        "features": _pins(features, features.get(day, []), days, erased.forgotten_up_to(owner)),
        "labels": _pins(
            labels, labels.get(matured, []), days, erased.forgotten_up_to(use_case.name)
        ),
    }


def _pins(
    traces: dict[date, list[Trace]],
    processed: list[Trace],
    days: Sequence[date],
    forgotten: int,
) -> dict[date, int]:
    first = _comparable(processed)
    if not first:
        # The day itself has not been processed: all there is, is known.
        return {}
    known = first[0].sequence
    pins = {}
    for day in days:
        versions = _comparable(traces.get(day, []))
        if not versions:
            continue
        earlier = [version for version in versions if version.sequence <= known]
        version = earlier[-1] if earlier else versions[0]
        if version.content != versions[-1].content and version.sequence > forgotten:
            pins[day] = version.output_snapshot if version.content else 0
    return pins


def _comparable(history: list[Trace]) -> list[Trace]:
    return [t for t in history if t.contract_digest == history[-1].contract_digest]
