"""What stock Feast does with late, repeated and corrected data, beside what Evergreen does.

    .venv/bin/python -m benchmarks.pains

Every scenario runs twice on the same few rows: through Feast with its own stores, and through
Evergreen's functions. What is shown is what was read back; docs/stock_behaviour.md explains it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStoreConfig
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import Int64, String

from benchmarks.bench import report, workspace
from benchmarks.contracts import write_use_case
from evergreen import lake
from evergreen.contract import UseCase, as_of
from evergreen.features import store
from evergreen.features.compute.run import feature_schema
from evergreen.lake.content import digest_by_day
from evergreen.provenance import receipts
from evergreen.provenance.as_known import pins_of
from evergreen.provenance.receipts import Receipt
from evergreen.settings import load_settings

MONDAY, TUESDAY, WEDNESDAY = date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)
SOON, LATER = timedelta(hours=1), timedelta(days=18)
OFFLINE = ("dask", "duckdb")
_INSTANT = pa.timestamp("us", tz="UTC")
_FEATURES = {"total_orders": "int64", "recency_days": "float64"}
_numbers = itertools.count()

# (customer, day, value, time from as_of to when it was created)
Row = tuple[str, date, int, timedelta]


@dataclass(frozen=True)
class Finding:
    """One scenario: what was read back, per way of doing it."""

    number: int
    pain: str
    stock: dict[str, Any]
    ours: dict[str, Any]


def backfill_of_an_older_day(folder: Path) -> Finding:
    """50 is the value of Tuesday; then Monday, whose value is 10, is backfilled."""
    rows = [("a", TUESDAY, 50, SOON), ("a", MONDAY, 10, SOON)]
    stock = {}
    for online in ("sqlite", "postgres"):
        with _stock(folder, rows, online=online) as feast:
            for day in (TUESDAY, MONDAY):
                _materialize(feast, day)
            stock[online] = _read(feast, "a")
    use_case = _ours(folder, rows)
    for day in (TUESDAY, MONDAY):
        store.materialize(use_case, day)
    ours = {"online": _our_value(use_case, "a")}
    return Finding(1, "a backfill overwrites newer online values (expected 50)", stock, ours)


def correction_of_the_same_day(folder: Path) -> Finding:
    """10 was wrong and is corrected to 11 for the same as_of; then the first run is repeated."""
    first, corrected = ("a", MONDAY, 10, SOON), ("a", MONDAY, 11, LATER)
    stock = {"redis": _redis([first, corrected, first])}
    for online in ("sqlite", "postgres"):
        with _stock(folder, [first], online=online) as feast:
            seen = []
            # Each run sees what was known when it ran.
            for known in ([first], [first, corrected], [first]):
                _write_source(feast, known)
                _materialize(feast, MONDAY)
                seen.append(_read(feast, "a"))
            stock[online] = seen
    use_case = _ours(folder, [first])
    original = lake.snapshot_id(use_case.name, "features")
    seen = []
    for known, snapshot in ((None, original), (corrected, None), (None, original)):
        if known:
            _publish(use_case, [known])
        store.materialize(use_case, MONDAY, snapshot)
        seen.append(_our_value(use_case, "a"))
    pain = "corrections of the same as-of are dropped, or do not stay (expected 10, 11, 11)"
    return Finding(2, pain, stock, {"online": seen})


def late_row(folder: Path) -> Finding:
    """Materialize Monday and Tuesday; only then does one row of Monday arrive."""
    on_time, late = [("a", MONDAY, 1, SOON), ("a", TUESDAY, 2, SOON)], ("b", MONDAY, 7, LATER)
    stock = {}
    for online in ("sqlite", "postgres"):
        with _stock(folder, on_time, online=online) as feast:
            _materialize(feast, MONDAY)
            with _silent():
                feast.materialize_incremental(as_of(TUESDAY))
            _write_source(feast, [*on_time, late, ("a", WEDNESDAY, 3, SOON)])
            with _silent():
                feast.materialize_incremental(as_of(WEDNESDAY))
            stock[online] = {"a": _read(feast, "a"), "b": _read(feast, "b")}
    use_case = _ours(folder, on_time)
    for day in (MONDAY, TUESDAY):
        store.materialize(use_case, day)
    _publish(use_case, [on_time[0], late])
    _publish(use_case, [("a", WEDNESDAY, 3, SOON)])
    for day in (WEDNESDAY, MONDAY):
        store.materialize(use_case, day)
    ours = {"online": {name: _our_value(use_case, name) for name in ("a", "b")}}
    return Finding(3, "incremental runs lose a late row (expected b 7)", stock, ours)


def correction_known_later(folder: Path) -> Finding:
    """At as_of the value was 1; eighteen days later it was corrected to 99."""
    known, corrected = ("a", MONDAY, 1, timedelta(0)), ("a", MONDAY, 99, LATER)
    stock = {}
    for offline in OFFLINE:
        with _stock(folder, [known, corrected], offline=offline) as feast:
            frame = pd.DataFrame(
                {"customer_id": ["a"], "event_timestamp": [pd.Timestamp(as_of(MONDAY))]}
            )
            for name, on_request in ((offline, False), (f"{offline}, cut off on request", True)):
                joined = _history(feast, frame, filter_by_created_timestamp=on_request)
                stock[name] = [int(value) for value in joined["total_orders"]]
    use_case = _ours(folder, [known])
    _publish(use_case, [corrected])
    frame = pa.table({"customer_id": ["a"], "as_of": pa.array([as_of(MONDAY)], _INSTANT)})

    def joined_value(**options: Any) -> list[int | None]:
        values: list[int | None] = store.training_set(use_case, frame, **options)[
            "total_orders"
        ].to_pylist()
        return values

    as_known = pins_of(use_case, MONDAY, [MONDAY])["features"]
    ours = {
        "as training reads it": joined_value(pins=as_known),
        "as corrected, on request": joined_value(),
    }
    return Finding(4, "a point-in-time join leaks a later correction (1 was known)", stock, ours)


def repeated_entity_rows(folder: Path) -> Finding:
    """Ask for two rows: equal ones; one without features; one whose features came only later."""
    rows = [("a", MONDAY, 1, SOON), ("later", WEDNESDAY, 3, SOON)]
    pairs = {name: ["a", name] for name in ("a", "nobody", "later")}
    instants = [as_of(MONDAY)] * 2
    stock = {}
    for offline in OFFLINE:
        with _stock(folder, rows, offline=offline) as feast:
            stock[offline] = {
                second: len(
                    _history(
                        feast,
                        pd.DataFrame(
                            {
                                "customer_id": customers,
                                "event_timestamp": pd.to_datetime(instants, utc=True),
                            }
                        ),
                    )
                )
                for second, customers in pairs.items()
            }
    use_case = _ours(folder, rows)
    ours = {
        second: store.training_set(
            use_case, pa.table({"customer_id": customers, "as_of": pa.array(instants, _INSTANT)})
        ).num_rows
        for second, customers in pairs.items()
    }
    pain = "rows of the entity frame vanish (expected 2 each: a and a, nobody, later)"
    return Finding(5, pain, stock, {"training_set": ours})


SCENARIOS: tuple[Callable[[Path], Finding], ...] = (
    backfill_of_an_older_day,
    correction_of_the_same_day,
    late_row,
    correction_known_later,
    repeated_entity_rows,
)


def main() -> None:
    """Run every scenario, print the table and write `pains.json`."""
    with workspace("pains") as settings:
        findings = [scenario(settings.home / scenario.__name__) for scenario in SCENARIOS]
    report(
        "pains",
        "The same few rows through stock Feast and through Evergreen",
        ("pain", "stock", "evergreen"),
        [(f"{f.number} {f.pain}", _text(f.stock), _text(f.ours)) for f in findings],
        findings={f.number: {"pain": f.pain, "stock": f.stock, "ours": f.ours} for f in findings},
    )


def _text(found: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in found.items())


# --- stock Feast ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _stock(
    folder: Path, rows: Sequence[Row], *, online: str = "sqlite", offline: str = "dask"
) -> Iterator[FeatureStore]:
    """Make a feature repository of its own: one Parquet file, one feature view, no time to live."""
    root = folder / f"stock{next(_numbers)}"
    root.mkdir(parents=True)
    online_store: Any = {"type": "sqlite", "path": str(root / "online.db")}
    if online == "postgres":
        ours = store.repo_config(load_settings()).online_store
        online_store = PostgreSQLOnlineStoreConfig(
            **ours.model_dump(exclude={"type", "write_batch_values"})
        )
    feast = FeatureStore(
        config=RepoConfig(
            # Names the tables of the online store, which scenarios share.
            project=root.name,
            provider="local",
            registry=str(root / "registry.db"),
            online_store=online_store,
            offline_store={"type": offline},
            entity_key_serialization_version=3,
        )
    )
    feast.config.repo_path = root
    _write_source(feast, rows)
    with _silent():
        feast.apply(_objects(root))
    try:
        yield feast
    finally:
        connection = feast._get_provider().online_store._conn
        if connection is not None:
            connection.close()


def _objects(root: Path) -> list[Any]:
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="totals",
        entities=[customer],
        ttl=timedelta(0),
        schema=[Field(name="customer_id", dtype=String), Field(name="total_orders", dtype=Int64)],
        source=FileSource(
            path=str(root / "rows.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        ),
    )
    return [customer, view]


def _write_source(feast: FeatureStore, rows: Sequence[Row]) -> None:
    frame = pd.DataFrame(
        {
            "customer_id": [customer for customer, _, _, _ in rows],
            "event_timestamp": pd.to_datetime([as_of(day) for _, day, _, _ in rows], utc=True),
            "total_orders": [value for _, _, value, _ in rows],
            "created": pd.to_datetime([as_of(day) + after for _, day, _, after in rows], utc=True),
        }
    )
    frame.to_parquet(Path(feast.config.repo_path) / "rows.parquet")


def _materialize(feast: FeatureStore, day: date) -> None:
    with _silent():
        feast.materialize(as_of(day) - timedelta(hours=12), as_of(day))


def _read(feast: FeatureStore, customer: str) -> int | None:
    with _silent():
        found = feast.get_online_features(
            features=["totals:total_orders"], entity_rows=[{"customer_id": customer}]
        ).to_dict()
    value: int | None = found["total_orders"][0]
    return value


def _history(feast: FeatureStore, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    with _silent():
        return feast.get_historical_features(
            entity_df=frame, features=["totals:total_orders"], **options
        ).to_df()


def _redis(rows: Sequence[Row]) -> list[int | None]:
    """Write one row after the other with Feast's Redis store, into a dictionary for a server."""
    online = RedisOnlineStore()
    online._client = _Dictionary()
    config = RepoConfig(
        project="stock",
        provider="local",
        registry="unused.db",
        online_store=RedisOnlineStoreConfig(),
        entity_key_serialization_version=3,
    )
    _, view = _objects(Path("unused"))
    seen: list[int | None] = []
    for customer, day, value, after in rows:
        key = EntityKey(join_keys=["customer_id"], entity_values=[Value(string_val=customer)])
        values = {"total_orders": Value(int64_val=value)}
        online.online_write_batch(
            config, view, [(key, values, as_of(day), as_of(day) + after)], None
        )
        ((_, found),) = online.online_read(config, view, [key], ["total_orders"])
        seen.append(found["total_orders"].int64_val if found else None)
    return seen


class _Dictionary:
    """As much of a Redis client as Feast's store uses: hashes behind a pipeline."""

    def __init__(self) -> None:
        self._hashes: dict[bytes, dict[Any, Any]] = {}
        self._replies: list[Any] = []

    def pipeline(self, transaction: bool) -> _Dictionary:
        return self

    def __enter__(self) -> _Dictionary:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies = []

    def hmget(self, key: bytes, fields: Any) -> None:
        wanted = fields if isinstance(fields, list) else [fields]
        self._replies.append([self._hashes.get(key, {}).get(field) for field in wanted])

    def hset(self, key: bytes, mapping: dict[Any, Any]) -> None:
        self._hashes.setdefault(key, {}).update(mapping)
        self._replies.append(len(mapping))

    def execute(self) -> list[Any]:
        replies, self._replies = self._replies, []
        return replies


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- Evergreen -----------------------------------------------------------------------------------


def _ours(folder: Path, rows: Sequence[Row]) -> UseCase:
    """Declare a use case of its own, apply it and publish its rows, one partition per day."""
    name = f"pain{next(_numbers)}"
    use_case = write_use_case(folder / name, _FEATURES)
    store.apply([use_case])
    receipts.create_tables()
    _publish(use_case, rows)
    return use_case


def _publish(use_case: UseCase, rows: Sequence[Row]) -> None:
    schema = feature_schema(use_case).append(pa.field("created_at", _INSTANT))
    for wanted in sorted({day for _, day, _, _ in rows}):
        table = pa.Table.from_pylist(
            [
                {
                    "customer_id": customer,
                    "as_of": as_of(day),
                    "total_orders": value,
                    "recency_days": None,
                    "day": day,
                    "created_at": as_of(day) + after,
                }
                for customer, day, value, after in rows
                if day == wanted
            ],
            schema=schema,
        )
        published = lake.publish(use_case.name, "features", table, [wanted])
        receipt = Receipt(
            use_case=use_case.name,
            step="publish_features",
            day=wanted,
            run=str(wanted),
            inputs={},
            output_table=published.table,
            output_snapshot=published.snapshot_id,
            counts={"rows": table.num_rows},
            basis=0,
            content=digest_by_day(table, [wanted])[wanted],
            contract_digest=use_case.contract_digest("features"),
            code_digest="",
            lock_digest="",
            seconds=0.0,
        )
        with receipts.recording(published.table) as record:
            record([receipt])


def _our_value(use_case: UseCase, customer: str) -> int | None:
    (value,) = store.read_online(use_case, [customer])["total_orders"].to_pylist()
    return None if value is None else int(value)


if __name__ == "__main__":
    main()
