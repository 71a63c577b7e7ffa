"""What the columns of a sample are for: who, when, which row, how much."""

# Expressions are made of identifiers and of what `Profile.typed` quotes.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import duckdb

from evergreen.contract.dtypes import NUMBER_DTYPES, TIME_DTYPES
from evergreen.errors import ConfigError
from evergreen.ops.new.profile import Profile

_ENTITY = {
    *("customer", "client", "user", "member", "account", "person", "patient", "subscriber"),
    *("visitor", "player", "student", "household", "device", "shop", "store", "kunde", "kunden"),
    *("cust", "buyer", "cliente", "benutzer", "konto", "patron", "donor", "guest", "machine"),
}
_ROW = {
    *("order", "invoice", "receipt", "basket", "transaction", "event", "booking", "payment"),
    *("ticket", "bon", "rechnung", "rechnungs", "bestell", "bestellung", "auftrag", "trans"),
    *("visit", "session", "purchase", "sale", "beleg", "txn", "message"),
}
_ID = {"id", "no", "nr", "number", "nummer", "num", "key", "code", "uuid", "guid", "ref"}
_HAPPENED = {"order", "ordered", "invoice", "purchase", "transaction", "event", "sale", "visit"}
_OTHER_TIMES = {
    "birth",
    "birthday",
    "updated",
    "modified",
    "due",
    "shipped",
    "delivered",
    "expires",
}
# The sooner named, the more it says what an event is worth.
_AMOUNT = (
    *("total", "amount", "revenue", "value", "betrag", "umsatz", "sales", "paid", "spent", "sum"),
    *("gross", "net", "summe", "price", "preis", "cost", "eur", "usd", "gbp"),
)
_QUANTITY = {"quantity", "qty", "menge", "anzahl", "items", "units", "pieces", "count"}
_UNIT_PRICE = {"price", "preis", "unitprice"}


@dataclass
class Roles:
    """What the columns of one table are for.

    Parameters
    ----------
    entity, time, key
        Columns; None where there is none.
    rolled_up
        Whether several rows with one key are one event.
    amount
        SQL over the columns of one row of what it is worth; None where nothing says so.
    exact_duplicates
        Rows that another row equals in every column.
    doubts
        By role, what a person must confirm.
    """

    entity: Profile | None = None
    time: Profile | None = None
    key: Profile | None = None
    rolled_up: bool = False
    amount: str | None = None
    exact_duplicates: int = 0
    doubts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Past:
    """When the events of a sample were, in local days, and what they say of habits.

    Parameters
    ----------
    first, last
        Days; far-off ones, which are mistakes, left aside.
    quiet_days
        Days between them without rows.
    in_named_days
        Share of the rows that lie in the days their files are named after.
    usual_gap_days
        Nine tenths of the times between two active days of an entity are no longer.
    worst_day, worst_share
        The day on which most rows lack what their role needs, and their share.
    """

    first: date
    last: date
    quiet_days: int
    in_named_days: float
    usual_gap_days: int | None
    worst_day: date
    worst_share: float


def tell_roles(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    columns: Sequence[Profile],
    *,
    entity: str | None,
    time: str | None,
    key: str | None,
    zone: str,
) -> Roles:
    """Guess what columns are for; what is given (a name in the file, or an identifier) is taken.

    The columns it gives a role change their dtype to what the role needs.

    Raises
    ------
    ConfigError
        The column given as the time holds no times that can be read.
    """
    roles = Roles()
    rows = columns[0].rows
    (distinct,) = connection.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT * FROM {relation})"
    ).fetchall()[0]
    roles.exact_duplicates = rows - distinct
    roles.time = _find(columns, time) or _time(columns, roles)
    if roles.time is not None and roles.time.dtype not in TIME_DTYPES:
        raise ConfigError(
            f"--time is {roles.time.source}, whose values are no dates or timestamps of a format "
            "that can be read. Name another column, or have them delivered as YYYY-MM-DD HH:MM:SS."
        )
    others = [column for column in columns if column is not roles.time]
    named = _find(others, key)
    roles.entity = _find(others, entity) or _entity(
        [column for column in others if column is not named], roles
    )
    if roles.entity is not None:
        roles.entity.become_text()
        _typed_view(connection, relation, columns, zone)
        others = [column for column in others if column is not roles.entity]
        if key is None:
            named = _key(connection, others, roles, distinct)
        elif named is not None:
            roles.rolled_up = _is_rolled_up(connection, named, roles)
    roles.key = named
    if roles.key is not None:
        roles.key.become_text()
    roles.amount = _amount([column for column in others if column is not roles.key], roles)
    return roles


def tell_past(
    connection: duckdb.DuckDBPyConnection, roles: Roles, named_days: Sequence[date]
) -> Past:
    """Look at the days of the events, in the view `typed` that `tell_roles` leaves.

    Parameters
    ----------
    named_days
        Days that the files are named after.

    Raises
    ------
    ConfigError
        No row has a time.
    """
    entity, time = _name(roles.entity), _name(roles.time)
    needed = [f'"{_name(column)}" IS NULL' for column in (roles.entity, roles.key) if column]
    lacking = " OR ".join(needed)
    (low, typical, high, usual_high, within), *_ = connection.execute(
        "SELECT min(t), quantile_disc(t, 0.001), max(t), quantile_disc(t, 0.999), "
        f'avg((t IN $days)::INT) FROM (SELECT CAST("{time}" AS DATE) AS t FROM typed)',
        {"days": [*named_days]},
    ).fetchall()
    if low is None:
        raise ConfigError(
            f"No row has a time that can be read in the column {time}. Name another with --time."
        )
    year = timedelta(days=365)
    # Times such as 1900-01-01 stand for "unknown".
    if typical - low > year:
        roles.doubts["first_day"] = f"some rows are of {low}, which looks like a mistake"
        low = typical
    high = usual_high if high - usual_high > year else high
    (days, worst_day, worst) = connection.execute(
        f"SELECT count(*), arg_max(day, (share, day)), max(share) FROM (SELECT "
        f'CAST("{time}" AS DATE) AS day, avg(({lacking})::INT) AS share FROM typed '
        f"WHERE day BETWEEN ? AND ? GROUP BY day)",
        [low, high],
    ).fetchall()[0]
    known = f'FROM typed WHERE "{entity}" IS NOT NULL'
    active = f'SELECT DISTINCT "{entity}" AS who, CAST("{time}" AS DATE) AS day {known}'
    gaps = f"SELECT day - lag(day) OVER (PARTITION BY who ORDER BY day) AS gap FROM ({active})"
    (gap,) = connection.execute(f"SELECT quantile_disc(gap, 0.9) FROM ({gaps})").fetchall()[0]
    quiet = (high - low).days + 1 - days
    return Past(low, high, quiet, within, gap, worst_day, worst)


def _typed_view(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[Profile], zone: str
) -> None:
    listed = ", ".join(f'{column.typed(zone)} AS "{column.name}"' for column in columns)
    connection.execute(f"CREATE OR REPLACE TEMP VIEW typed AS SELECT {listed} FROM {relation}")


def _find(columns: Sequence[Profile], given: str | None) -> Profile | None:
    return next((c for c in columns if given is not None and given in (c.source, c.name)), None)


def _name(column: Profile | None) -> str:
    if column is None:
        raise ConfigError("The table has no such column.")
    return column.name


def _time(columns: Sequence[Profile], roles: Roles) -> Profile | None:
    times = [column for column in columns if column.dtype in TIME_DTYPES]
    times = [column for column in times if column.nulls <= 0.1 * column.rows]
    if not times:
        return None

    def rank(column: Profile) -> tuple[bool, bool, bool]:
        words = column.words
        return not words & _OTHER_TIMES, bool(words & _HAPPENED), column.dtype == "timestamp"

    best = max(times, key=rank)
    if len(times) > 1:
        named = ", ".join(column.name for column in times if column is not best)
        roles.doubts["time"] = f"when it happened? {named} would also do"
    return best


def _entity(columns: Sequence[Profile], roles: Roles) -> Profile | None:
    def rank(column: Profile) -> tuple[int, int]:
        words, hinted = column.words, bool(column.words & _ENTITY)
        score = 8 * hinted + 2 * bool(words & _ID) + 2 * (column.padded or column.strip_float)
        score -= 4 * bool(words & _ROW) + 3 * (not hinted and _is_measure(column))
        return score, column.distinct

    columns = [c for c in columns if c.dtype in ("string", "int64") or c.strip_float]
    repeated = [
        column
        for column in columns
        if 2 <= column.distinct < column.rows - column.nulls and not column.values
        if column.nulls <= (0.95 if column.words & _ENTITY else 0.5) * column.rows
    ]
    hinted = [column for column in columns if column.words & _ENTITY and column.distinct]
    # Nobody repeats in a table of what entities are, nor in a very small sample.
    found = max(repeated or hinted, key=rank, default=None)
    if found is not None:
        certain = bool(found.words & _ENTITY)
        roles.doubts["entity"] = (
            f"whom to predict for? {found.distinct:,} different ones in {found.rows:,} rows"
            + ("" if certain else "; nothing in the name says so")
        )
    return found


def _is_measure(column: Profile) -> bool:
    words = column.words
    return bool(words & {*_AMOUNT, *_QUANTITY}) or (
        column.dtype in NUMBER_DTYPES and not (column.padded or words & _ID)
    )


def _key(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[Profile], roles: Roles, distinct: int
) -> Profile | None:
    candidates = [
        column
        for column in columns
        if (column.dtype in ("string", "int64") or column.strip_float) and not column.nulls
    ]
    named = [column for column in candidates if column.words & _ROW]
    for column in named:
        if column.words & _ID and _is_rolled_up(connection, column, roles):
            roles.doubts["key"] = "rows that share it are rolled up to one event"
            return column
    unique = [column for column in candidates if column.distinct == distinct]
    unique = [column for column in unique if not _is_measure(column) or column.words & _ROW]
    if unique:
        found = max(unique, key=lambda column: (column in named, bool(column.words & _ID)))
        if not found.words & (_ROW | _ID):
            roles.doubts["key"] = "different in every row of the sample; does it name a row?"
        return found
    for column in sorted(candidates, key=lambda column: -column.distinct):
        if not _is_measure(column) and _is_rolled_up(connection, column, roles):
            roles.doubts["key"] = (
                f"rows with one {column.name} have one {_name(roles.entity)} and one time; do they "
                "belong together?"
            )
            return column
    roles.doubts["key"] = "no column is different in every row"
    return None


def _is_rolled_up(connection: duckdb.DuckDBPyConnection, column: Profile, roles: Roles) -> bool:
    """Whether rows with one key are parts of one event: of one entity, at nearly one time."""
    if roles.time is None:
        return False
    entity, time, key = _name(roles.entity), _name(roles.time), column.name
    rows, groups, alone, at_once = connection.execute(
        f"SELECT sum(n), count(*), avg((who <= 1)::INT), avg((span <= 3600)::INT) FROM (SELECT "
        f'count(*) AS n, count(DISTINCT "{entity}") AS who, '
        f'date_diff(\'second\', min("{time}"), max("{time}")) AS span '
        f'FROM typed WHERE "{time}" IS NOT NULL GROUP BY "{key}")'
    ).fetchall()[0]
    found = bool(groups > 1 and rows >= 1.05 * groups and alone >= 0.98 and at_once >= 0.98)
    roles.rolled_up = found
    return found


def _amount(columns: Sequence[Profile], roles: Roles) -> str | None:
    numbers = [column for column in columns if column.dtype in NUMBER_DTYPES]
    numbers = [column for column in numbers if column.nulls < column.rows / 2]
    quantity = _first(numbers, _QUANTITY)
    price = _first([column for column in numbers if column is not quantity], _UNIT_PRICE)
    total = next(
        (c for word in _AMOUNT for c in numbers if word in c.words and c not in (quantity, price)),
        None,
    )
    if total is None and quantity and price:
        roles.doubts["amount"] = f"is {price.name} the price of one of {quantity.name}?"
        return f"{quantity.name} * {price.name}"
    plain = [column for column in numbers if column.dtype == "float64"]
    found = total or price or (plain[-1] if plain else None)
    if found is None:
        return None
    roles.doubts["amount"] = "is this what an event is worth?"
    return found.name


def _first(columns: Sequence[Profile], words: Collection[str]) -> Profile | None:
    return next((column for column in columns if column.words & {*words}), None)
