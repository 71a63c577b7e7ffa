"""Rows 8 and 9: bad rows through Great Expectations alone, and through ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from benchmarks.scoreboard.finding import OURS, PLAIN, Seen, compare
from evergreen.contract import Events, load_use_case
from evergreen.errors import ValidationError
from evergreen.quality.split import Split, split_rows
from evergreen.quality.validate import validate_rows

DAY = date(2026, 1, 5)
# Of the rows of the day, good ones and bad ones, and how many of the good are delivered twice.
_GOOD, _BAD, _TWICE = 60, 30, 5
_DUE = {"rows named": _BAD + _TWICE, "accepted": _GOOD, "quarantined": _BAD, "duplicates": _TWICE}


def bad_rows(folder: Path) -> Iterable[Seen]:
    """Ask what is to become of each row of a day of which a third is bad."""
    delivered = _delivered()
    for on_request in (False, True):
        # By default a result counts, and shows some values; it names rows only when it is told to.
        options = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
        result = _gx(delivered, options if on_request else None)
        named = {
            index["row"]
            for each in result.results
            for index in each.result.get("unexpected_index_list") or []
        }
        found = {
            "rows named": len(named),
            "accepted": len(delivered) - len(named) if named else None,
            "quarantined": len(named) or None,
            "duplicates": None,
        }
        yield compare(PLAIN, found, _DUE, on_request=on_request)
    split = _split(delivered)
    counts = {
        name: sum(split.counts[name].to_pylist())
        for name in ("accepted", "quarantined", "duplicates")
    }
    named = set(split.quarantined["row"].to_pylist())
    found = {"rows named": len(named) + counts["duplicates"], **counts}
    yield compare(OURS, found, _DUE)


def failed_validations(folder: Path) -> Iterable[Seen]:
    """Run the body of a task that validates and says nothing else, on bad rows and on none."""
    delivered = _delivered()
    empty = delivered.head(0)
    expected = {"bad rows": "failed", "no rows": "failed"}

    def outcome(body: Callable[[pd.DataFrame], Any], rows: pd.DataFrame) -> str:
        try:
            body(rows)
        except ValidationError:
            return "failed"
        return "ended well"

    def validate(rows: pd.DataFrame) -> None:
        split = _split(rows)
        # As if nothing had been quarantined before: the bad rows reach the validation.
        accepted = split.accepted
        if len(rows):
            amounts = pa.array([-1.0] * accepted.num_rows)
            at = accepted.column_names.index("amount")
            accepted = accepted.set_column(at, accepted.schema.field("amount"), amounts)
        table, counts = _orders(), split.counts
        validate_rows(table, accepted, counts, {}, run_name=str(DAY)).require()

    for contender, body in ((PLAIN, _gx), (OURS, validate)):
        found = {"bad rows": outcome(body, delivered), "no rows": outcome(body, empty)}
        yield compare(contender, found, expected)


def _delivered() -> pd.DataFrame:
    numbers = [*range(_GOOD + _BAD), *range(_TWICE)]
    return pd.DataFrame(
        {
            "order_id": [f"O1-{n}" for n in numbers],
            "customer_id": [f"C{n}" for n in numbers],
            "ordered_at": [f"{DAY} 10:00:00"] * len(numbers),
            "amount_eur": [10.0 if n < _GOOD else -1.0 for n in numbers],
            "status": ["completed"] * len(numbers),
            "row": range(1, len(numbers) + 1),
        }
    )


def _gx(rows: pd.DataFrame, options: Mapping[str, Any] | None = None) -> Any:
    """Validate as its documentation does: a suite, a batch, a result."""
    # Not above: what is imported there first sees to it that no usage statistics leave the machine.
    import great_expectations as gx
    import great_expectations.expectations as gxe

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("orders").add_dataframe_asset("orders")
    batch = asset.add_batch_definition_whole_dataframe("day").get_batch({"dataframe": rows})
    suite = gx.ExpectationSuite(
        "orders",
        expectations=[
            gxe.ExpectColumnValuesToBeUnique(column="order_id"),
            gxe.ExpectColumnValuesToBeBetween(column="amount_eur", min_value=0.01),
        ],
    )
    return batch.validate(suite, **({"result_format": dict(options)} if options else {}))


def _orders() -> Events:
    return load_use_case("churn").events["orders"]


def _split(rows: pd.DataFrame) -> Split:
    columns = {
        name: pa.array(rows[name].astype(str), pa.string()) for name in rows if name != "row"
    }
    raw = pa.table(
        {
            **columns,
            "_text": pa.nulls(len(rows), pa.string()),
            "_day": pa.array([DAY] * len(rows), pa.date32()),
            "_source": pa.array(["orders.csv"] * len(rows), pa.string()),
            "_row": pa.array(rows["row"], pa.int64()),
            "_error": pa.nulls(len(rows), pa.string()),
        }
    )
    return split_rows(_orders(), raw, DAY, DAY + timedelta(days=1))
