"""`evergreen new` on files as shops, web logs and spreadsheets write them."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from evergreen.cli import main
from evergreen.contract import NAMES, UseCase, load_use_case_file
from evergreen.errors import ConfigError
from evergreen.ops.new import Wishes, draft_use_case
from evergreen.ops.new.sniff import dated
from evergreen.sources import open_source
from evergreen.sql.connection import opened

START = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def use_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / "use_cases"))
    return tmp_path / "use_cases"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def draft(*samples: Path, **wishes: str) -> UseCase:
    """Draft `shop`; whatever is drafted loads, reads its files, and its SQL binds."""
    draft_use_case("shop", samples, Wishes(**wishes))
    use_case = load()
    for table in use_case.tables.values():
        start = use_case.first_day
        raw = next(iter(open_source(table).read(start, start + timedelta(days=1))))
        assert {column.source for column in table.columns.values()} <= set(raw.schema.names)
    assert_sql_binds(use_case)
    return use_case


def load() -> UseCase:
    from evergreen.settings import load_settings

    return load_use_case_file(load_settings().use_cases / "shop" / "use_case.yaml")


def assert_sql_binds(use_case: UseCase) -> None:
    with opened("test") as connection:
        moments = "TIMESTAMP '2025-06-01' AS as_of, TIMESTAMP '2025-08-30' AS horizon_end"
        connection.execute(f"CREATE TABLE as_of_days AS SELECT {moments}")
        for name, table in use_case.events.items():
            columns = {n: NAMES[c.dtype].sql for n, c in table.published.items()}
            typed = ", ".join(f"{n} {kind}" for n, kind in columns.items())
            connection.execute(f"CREATE TABLE {name} ({typed})")
            if table.rollup:
                lines = ", ".join(f"{n} {NAMES[c.dtype].sql}" for n, c in table.columns.items())
                connection.execute(f"CREATE TABLE lines ({lines})")
                summed = ", ".join(table.rollup.aggregates.values())
                connection.execute(f"SELECT {summed} FROM lines GROUP BY {table.rollup.key}")
            assert table.daily is not None
            listed = ", ".join(f"{c.sql} AS {n}" for n, c in table.daily.columns.items())
            key, day = use_case.entity.key, f"CAST({table.timestamp} AS DATE)"
            connection.execute(
                f"CREATE VIEW {name}_daily AS SELECT {key}, {day} AS day, {listed} "
                f"FROM {name} GROUP BY {key}, {day}"
            )
        for sql, columns in (
            (use_case.features_sql, set(use_case.features.columns)),
            (use_case.labels_sql, {"label"}),
        ):
            found = {row[0] for row in connection.execute(f"DESCRIBE {sql}").fetchall()}
            assert found == columns | {use_case.entity.key, "as_of"}
            connection.execute(sql)


def checks(use_cases: Path) -> list[str]:
    lines = (use_cases / "shop" / "use_case.yaml").read_text().splitlines()
    return [line.split(":")[0].strip() for line in lines if "# CHECK: " in line]


def write_orders(path: Path, *, header: str, line: Any, count: int = 600) -> Path:
    """Write one line per order; `line` gets number, customer, time and amount."""
    chance = random.Random(1)
    lines = [header] if header else []
    for n in range(count):
        at = START + timedelta(hours=9 * n)
        lines.append(line(n, chance.randrange(90), at, round(chance.uniform(3, 3000), 2)))
    path.write_text("\n".join(lines) + "\n")
    return path


# --- five kinds of files -------------------------------------------------------------------------


def test_a_plain_export_of_orders(files: Path, use_cases: Path):
    path = write_orders(
        files / "orders.csv",
        header="OrderID,Customer,Ordered At,Total,Status",
        line=lambda n, who, at, amount: (
            f"O{n},C{who},{at:%Y-%m-%d %H:%M:%S},{amount},{'paid' if n % 3 else 'open'}"
        ),
    )
    use_case = draft(path)
    (orders,) = use_case.events.values()
    assert (orders.name, orders.key, orders.timestamp) == ("orders", "order_id", "ordered_at")
    assert (use_case.entity.name, use_case.entity.key) == ("customer", "customer")
    assert (use_case.zone, use_case.first_day) == ("UTC", date(2025, 1, 1))
    assert orders.columns["total"].range == (0, 100_000)
    assert not orders.columns["total"].nullable
    assert orders.columns["status"].values == ("open", "paid")
    assert orders.daily.columns["spent"].sql == "sum(total::DECIMAL(18, 6))"
    assert orders.source.path == str(path)
    assert orders.rollup is None
    assert {"zone", "first_day", "path", "status", "spent", "horizon_days"} <= {*checks(use_cases)}


def test_line_items_without_a_customer_in_every_row(files: Path):
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
    chance = random.Random(2)
    for day in ("2010-12-01", "2010-12-02", "2010-12-05"):
        lines = [header]
        for n in range(60):
            who = f"{12_346 + chance.randrange(20)}.0" if n % 4 else ""
            at = f"{day} {8 + n // 10:02}:{n % 10}0:00"
            for item in range(1 + chance.randrange(4)):
                count = -1 if n == 7 else 6
                lines.append(f"{day[-1]}{n:05},8{item},THING,{count},{at},2.55,{who},France")
        (files / f"{day}.csv").write_text("\n".join([*lines, lines[-1]]) + "\n")
    use_case = draft(files / "2010-12-01.csv", files / "2010-12-02.csv")
    (orders,) = use_case.events.values()
    assert orders.name == "orders"
    assert orders.source.path == f"{files}/{{day}}.csv"
    # The third of the files is found, and that two days have none.
    assert (orders.source.missing, orders.batch.allow_empty) == ("empty", True)
    assert use_case.first_day == date(2010, 12, 1)
    assert use_case.entity.key == "customer_id"
    assert orders.columns["customer_id"].strip_float
    assert orders.columns["customer_id"].dtype == "string"
    assert orders.rollup is not None
    assert orders.rollup.key == orders.key == "invoice_no"
    assert orders.rollup.aggregates["amount"] == "sum(quantity * unit_price)"
    # Returns: amounts may be negative.
    assert orders.columns["quantity"].range == (-100, 100)
    assert orders.published["amount"].range == (None, None)
    assert orders.duplicates == "drop"
    assert orders.batch.max_quarantined_ratio > 0.25


def test_a_classic_file_without_header(files: Path):
    path = write_orders(
        files / "CDNOW_master.txt",
        header="",
        line=lambda n, who, at, amount: f" {who:05} {at:%Y%m%d} {n % 5 + 1:2} {amount:8.2f}",
    )
    path.write_text(path.read_text() * 2)
    use_case = draft(path)
    (orders,) = use_case.events.values()
    names = ("customer_id", "happened_on", "column_3", "amount")
    assert (orders.source.csv.delimiter, orders.source.csv.names) == ("whitespace", names)
    assert (orders.key, orders.duplicates, orders.timestamp) == ("none", "keep", "happened_on")
    assert orders.columns["happened_on"].formats == ("%Y%m%d",)
    assert [column.dtype for column in orders.columns.values()] == [
        *("string", "date", "int64", "float64")
    ]


def european(amount: float) -> str:
    return f"{amount:,.2f}".translate(str.maketrans(",.", ".,"))


def test_a_european_spreadsheet(files: Path, use_cases: Path):
    path = write_orders(
        files / "bestellungen.csv",
        header="Bestell-Nr;Kunden-Nr;Größe;Bestelldatum;Betrag",
        line=lambda n, who, at, amount: (
            f'B{n};K{who};"a;b {n}";{at:%d.%m.%Y %H:%M};{european(amount)}'
        ),
    )
    path.write_bytes(path.read_text().encode("cp1252"))
    use_case = draft(path, zone="Europe/Berlin")
    (orders,) = use_case.events.values()
    assert (use_case.zone, use_case.entity.key) == ("Europe/Berlin", "kunden_nr")
    assert (orders.source.csv.delimiter, orders.source.csv.encoding) == (";", "cp1252")
    assert (orders.name, orders.key) == ("bestellungen", "bestell_nr")
    assert orders.columns["bestelldatum"].formats == ("%d.%m.%Y %H:%M",)
    amount = orders.columns["betrag"]
    assert (amount.dtype, amount.decimal, amount.thousands) == ("float64", ",", ".")
    assert "grosse" in orders.columns
    assert "zone" not in checks(use_cases)


def test_parquet_with_zoned_times(files: Path, use_cases: Path):
    count = 400
    times = [START + timedelta(hours=5 * n) for n in range(count)]
    events = pa.table(
        {
            "eventId": [f"e{n}" for n in range(count)],
            "userId": [1000 + n % 37 for n in range(count)],
            "eventTime": pa.array(times, pa.timestamp("us", "America/New_York")),
            "order": [n % 2 == 0 for n in range(count)],
        }
    )
    pq.write_table(events, files / "clicks.parquet")
    use_case = draft(files / "clicks.parquet")
    (clicks,) = use_case.events.values()
    assert clicks.source.format == "parquet"
    # 1 January, 00:00 UTC, is the evening before in New York.
    assert (use_case.zone, use_case.first_day) == ("America/New_York", date(2024, 12, 31))
    assert (clicks.key, use_case.entity.key) == ("event_id", "user_id")
    assert clicks.columns["user_id"].dtype == "string"
    # A reserved word of SQL.
    assert clicks.columns["order_value"].source == "order"
    assert clicks.columns["order_value"].dtype == "bool"
    assert "spent" not in clicks.daily.columns
    assert "zone" in checks(use_cases)


def test_a_log_without_any_key(files: Path, use_cases: Path):
    path = write_orders(
        files / "visits.tsv",
        header="user\tat\tpages",
        line=lambda n, who, at, _: f"u{who}\t{at:%Y-%m-%dT%H:00:00+02:00}\t{n % 3}",
    )
    path.write_text(path.read_text() + path.read_text().splitlines()[5] + "\n")
    use_case = draft(path)
    (visits,) = use_case.events.values()
    assert visits.source.csv.delimiter == "\t"
    assert (visits.key, visits.duplicates, use_case.entity.key) == ("none", "keep", "user")
    assert {"zone", "key", "duplicates"} <= {*checks(use_cases)}


# --- several tables ------------------------------------------------------------------------------


def test_further_files_become_attributes_and_references(files: Path):
    (files / "products.csv").write_text(
        "sku|name|price\n" + "".join(f"{n:04}|thing {n}|{n}.5\n" for n in range(9))
    )
    (files / "customers.csv").write_text(
        "Customer,Since,Segment\n" + "".join(f"C{n},2024-01-0{1 + n % 9},A\n" for n in range(90))
    )
    write_orders(
        files / "orders.csv",
        header="OrderID,Customer,At,Total",
        line=lambda n, who, at, amount: f"O{n},C{who},{at.isoformat()},{amount}",
    )
    use_case = draft(files / "products.csv", files / "customers.csv", files / "orders.csv")
    assert {name: table.kind for name, table in use_case.tables.items()} == {
        "orders": "events",
        "customers": "attributes",
        "products": "references",
    }
    assert use_case.attributes["customers"].valid_from == "since"
    assert use_case.references["products"].columns["sku"].dtype == "string"
    assert "customers  attributes, not used yet" in use_case.features_sql


# --- what is given, and what cannot be ------------------------------------------------------------


def test_what_is_given_is_not_guessed(files: Path, use_cases: Path):
    path = write_orders(
        files / "log.csv",
        header="a,b,c,d,e",
        line=lambda n, who, at, amount: (
            f"{n},{who},{at.isoformat()},{(at + timedelta(days=400)).isoformat()},{n % 90}"
        ),
    )
    use_case = draft(path, entity="e", time="d", key="none", zone="Asia/Tokyo")
    (table,) = use_case.events.values()
    assert (use_case.entity.key, table.timestamp, table.key) == ("e", "d", "none")
    assert use_case.first_day == date(2026, 2, 5)
    assert not {"zone", "timestamp", "key"} & {*checks(use_cases)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        ("a,b\n1,2\n3,4\n5,6\n", r"no column that looks like a time \(--time\): a, b"),
        ("Sales 2025\n\na,b,c\n" + "1,2,3\n" * 20, "without a title above it"),
        ("PK\x03\x04", "spreadsheet or archive"),
    ],
)
def test_what_is_no_table_of_events_is_told(files: Path, use_cases: Path, content: str, said: str):
    (files / "x.csv").write_text(content)
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        draft(files / "x.csv")
    assert not (use_cases / "shop").exists()


def test_a_missing_file_a_wrong_name_zone_or_column_are_told(files: Path):
    path = write_orders(
        files / "orders.csv", header="id,user,at", line=lambda n, who, at, _: f"{n},{who},{at}"
    )
    for name, sample, wishes, said in (
        ("Shop!", path, Wishes(), "lower-case letters"),
        ("shop", files / "none.csv", Wishes(), "There is no file"),
        ("shop", path, Wishes(zone="Europe/Berlim"), "name of a zone"),
        ("shop", path, Wishes(entity="who"), r"--entity is 'who'.*id, user, at"),
        ("shop", path, Wishes(time="user"), "--time is user.*YYYY-MM-DD HH:MM:SS"),
    ):
        with pytest.raises(ConfigError, match=said):
            draft_use_case(name, [sample], wishes)


def test_a_folder_is_never_overwritten(
    files: Path,
    use_cases: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    path = write_orders(
        files / "orders.csv", header="id,user,at", line=lambda n, who, at, _: f"{n},{who},{at}"
    )
    arguments = ["evergreen", "new", "shop", "--from", str(path), "--zone", "Europe/Berlin"]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    out = capsys.readouterr().out
    assert "evergreen check shop" in out
    assert "shop_history --unpause --from 2025-01-01 --to" in out
    folder = use_cases / "shop"
    assert {file.name for file in folder.iterdir()} == {
        *("use_case.yaml", "features.sql", "labels.sql", "README.md")
    }
    assert (folder / "README.md").read_text().startswith("# shop\n")
    (folder / "labels.sql").write_text("mine")
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "exists already, and is left alone" in capsys.readouterr().err
    assert (folder / "labels.sql").read_text() == "mine"


# --- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/in/2026-03-01.csv", "/in/{day}.csv"),
        ("/in/2026/03/01/part.csv", "/in/{day:%Y/%m/%d}/part.csv"),
        ("/in/dt=2026-03-01/part-0.parquet", "/in/dt={day}/part-0.parquet"),
        (
            "/in/year=2026/month=03/day=01/x.parquet",
            "/in/year={day:%Y}/month={day:%m}/day={day:%d}/x.parquet",
        ),
        ("/2020-01-01/orders_20260301.csv", "/2020-01-01/orders_{day:%Y%m%d}.csv"),
        ("/in/2026_03_01.csv", "/in/{day:%Y_%m_%d}.csv"),
    ],
)
def test_days_in_paths(path: str, template: str):
    assert dated(Path(path)) == (template, date(2026, 3, 1))


def test_an_export_that_is_named_after_a_day_is_one_file(files: Path):
    path = write_orders(
        files / "orders-2025-12-31.csv",
        header="id,user,at",
        line=lambda n, who, at, _: f"{n},{who},{at:%m/%d/%Y %I:%M %p}",
    )
    (orders,) = draft(path).events.values()
    assert orders.source.path == str(path)
    assert orders.columns["at_value"].formats == ("%m/%d/%Y %I:%M %p",)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "-20"], {"dtype": "int64"}),
        (["1", "2.5e3"], {"dtype": "float64"}),
        (["1,5", "2"], {"dtype": "float64", "decimal": ","}),
        (["1,234", "2,500"], {"dtype": "int64", "thousands": ","}),
        (["1'234.5", "2"], {"dtype": "float64", "thousands": "'"}),
        (["007", "12"], {"dtype": "string"}),
        (["yes", "No"], {"dtype": "bool"}),
        (["2025-01-02", "2025-01-31"], {"dtype": "date", "formats": ()}),
        (["31/01/2025", "01/02/2025"], {"dtype": "date", "formats": ("%d/%m/%Y",)}),
        (["01/31/25 9:05", "02/01/25 17:00"], {"formats": ("%m/%d/%y %H:%M",)}),
        (["3-Mar-2025", "14-Apr-2025"], {"dtype": "date", "formats": ("%d-%b-%Y",)}),
        (["20250102093000", "20250131000000"], {"formats": ("%Y%m%d%H%M%S",)}),
        (["20250102", "20250131"], {"dtype": "date", "formats": ("%Y%m%d",)}),
        (["2000111", "2000112"], {"dtype": "int64"}),
        (["20259902", "20250131"], {"dtype": "int64"}),
        (["2025-01-02T10:00:00.123Z"], {"dtype": "timestamp", "zoned": True}),
        (["EUR 5", "EUR 7"], {"dtype": "string"}),
    ],
)
def test_types(texts: list[str], expected: dict[str, Any]):
    from evergreen.ops.new.profile import profile_columns

    with opened("test") as connection:
        connection.register("sample", pa.table({"x": [*texts, " ", None]}))
        (found,) = profile_columns(connection, "sample", ["x"])
    assert (found.rows, found.nulls) == (len(texts) + 2, 2)
    assert {name: getattr(found, name) for name in expected} == expected


# --- real data, and the whole check --------------------------------------------------------------


@pytest.mark.real_data
def test_the_days_of_a_real_shop(online_retail: Path):
    use_case = draft(
        *(online_retail / "by-day" / f"{day}.csv" for day in ("2010-12-01", "2011-08-30"))
    )
    (orders,) = use_case.events.values()
    assert orders.source.path.endswith("/by-day/{day}.csv")
    assert use_case.first_day == date(2010, 12, 1)
    assert use_case.entity.key == "customer_id"
    assert (orders.rollup.key, orders.timestamp) == ("invoice_no", "invoice_date")
    assert orders.columns["customer_id"].strip_float


def test_a_draft_passes_the_check(files: Path):
    from evergreen.ops.check import find_problems

    path = write_orders(
        files / "orders.csv",
        header="OrderID,Customer,At,Total",
        line=lambda n, who, at, amount: f"O{n},C{who},{at.isoformat()},{amount}",
    )
    draft(path)
    assert find_problems("shop") == []


def test_comments_do_not_change_what_is_declared(files: Path, use_cases: Path):
    path = write_orders(
        files / "orders.csv", header="id,user,at", line=lambda n, who, at, _: f"{n},{who},{at}"
    )
    draft(path)
    text = (use_cases / "shop" / "use_case.yaml").read_text()
    without = "\n".join(line.partition("  # CHECK")[0] for line in text.splitlines())
    assert yaml.safe_load(without) == yaml.safe_load(text)
