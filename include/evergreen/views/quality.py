"""What became of the rows that were delivered: none is lost, and what was rejected has a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from evergreen.contract import UseCase
from evergreen.contract.masking import mask_raw, personal_columns
from evergreen.errors import ConfigError
from evergreen.settings import load_settings
from evergreen.views import days as partitions
from evergreen.views.reading import Row, read_refusals, read_rows
from evergreen.views.remembered import remembered

_DAYS = 30
_SAMPLES = 20


@dataclass(frozen=True)
class DayCounts:
    """Rows of one table and day; `conserved`: each of `rows_in` is among the other four."""

    day: date
    table: str
    rows_in: int
    accepted: int
    quarantined: int
    duplicates: int
    erased: int
    published: int
    conserved: bool
    without_data: bool


@dataclass(frozen=True)
class Refusal:
    """A day that was delivered and not accepted, by the rules of its batch."""

    day: date
    table: str
    rules: list[str]
    found: str


@dataclass(frozen=True)
class RuleCount:
    """How many rows broke a rule; a row may break several."""

    table: str
    rule: str
    because: str
    rows: int
    days: int
    newest_day: date


@dataclass(frozen=True)
class Quality:
    """A stretch of days, newest first, and the rules that were broken, most rows first.

    `data_docs` says whether there are pages of Great Expectations.
    """

    use_case: str
    days: list[DayCounts]
    refused: list[Refusal]
    rules: list[RuleCount]
    data_docs: bool = False


@dataclass(frozen=True)
class Rejected:
    """A row that was rejected, as it was delivered; what is personal is masked."""

    day: date
    source: str
    row: int | None
    rules: list[str]
    raw: dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """The newest of all `rows` that broke a rule; `masked` are the columns that are not shown."""

    rows: int
    samples: list[Rejected]
    masked: list[str]


def has_data_docs(use_case: UseCase) -> bool:
    """Return whether anything was validated that Data Docs were written of."""
    return (load_settings().quality / use_case.name / "data_docs" / "index.html").is_file()


def quality(use_case: UseCase, first: date | None = None, last: date | None = None) -> Quality:
    """Return the days from `first` to `last`; by default the newest thirty."""
    return replace(_quality(use_case, first, last), data_docs=has_data_docs(use_case))


@remembered
def _quality(use_case: UseCase, first: date | None, last: date | None) -> Quality:
    published = partitions.published(use_case)
    first, last = _stretch(use_case, first, last)
    days = [
        _counts(table, day, receipt.counts)
        for table in use_case.tables
        for day, receipt in published[table].items()
        if first <= day <= last
    ]
    refused = [
        Refusal(row["day"], row["table"], row["rules"], row["found"])
        for row in read_refusals(use_case, first, last)
    ]
    rejected = read_rows(use_case, "quarantine", first, last, ("table", "rules"))
    return Quality(
        use_case.name,
        sorted(days, key=lambda found: (found.day, found.table), reverse=True),
        refused[::-1],
        _rules(use_case, rejected),
    )


@remembered
def samples(
    use_case: UseCase,
    table: str,
    rule: str,
    first: date | None = None,
    last: date | None = None,
) -> Samples:
    """Return rows of a table that broke a rule, in the same days as `quality`.

    Raises
    ------
    ConfigError
        There is no such table.
    """
    if table not in use_case.tables:
        raise ConfigError(
            f"{use_case.name} has no table {table!r}; expected one of {', '.join(use_case.tables)}."
        )
    first, last = _stretch(use_case, first, last)
    declared = use_case.tables[table]
    rejected = read_rows(use_case, "quarantine", first, last, equal={"table": table})
    found = [row for row in rejected if rule in row["rules"]]
    return Samples(
        len(found),
        [
            Rejected(
                *(row["day"], row["source"], row["row"], row["rules"]),
                raw=mask_raw(declared, row["raw"]),
            )
            for row in found[::-1][:_SAMPLES]
        ],
        personal_columns(declared),
    )


def _stretch(use_case: UseCase, first: date | None, last: date | None) -> tuple[date, date]:
    published = partitions.published(use_case)
    delivered = {table: published[table] for table in use_case.tables}
    last = last or partitions.newest_day(delivered) or use_case.first_day
    return first or last - timedelta(days=_DAYS - 1), last


def _counts(table: str, day: date, counts: Any) -> DayCounts:
    rows_in, accepted, quarantined, duplicates, erased, published = (
        counts.get(name, 0)
        for name in ("rows_in", "accepted", "quarantined", "duplicates", "erased", "published")
    )
    return DayCounts(
        *(day, table, rows_in, accepted, quarantined, duplicates, erased, published),
        conserved=rows_in == accepted + quarantined + duplicates + erased,
        without_data="without_data" in counts,
    )


def _rules(use_case: UseCase, rejected: Iterable[Row]) -> list[RuleCount]:
    rows: Counter[tuple[str, str]] = Counter()
    days: dict[tuple[str, str], set[date]] = {}
    for row in rejected:
        for rule in row["rules"]:
            rows[row["table"], rule] += 1
            days.setdefault((row["table"], rule), set()).add(row["day"])
    because = {
        (table.name, rule.name): rule.because
        for table in use_case.tables.values()
        for rule in table.rules
    }
    return [
        RuleCount(
            *of,
            because.get(of, ""),
            count,
            len(days[of]),
            max(days[of]),
        )
        for of, count in rows.most_common()
    ]
