"""`evergreen new` on files as shops, web logs and spreadsheets write them."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.cli import main
from evergreen.contract import Events, UseCase, load_use_case
from evergreen.errors import ConfigError
from evergreen.ops.check import find_problems
from evergreen.ops.new import draft_use_case
from evergreen.ops.new.columns import find_columns
from evergreen.sources.base import raw_table
from evergreen.sql.connection import opened

START = datetime(2025, 1, 1, tzinfo=UTC)
Line = Callable[[int, int, datetime, float], str]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / "use_cases"))
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def draft(*samples: Path, **wishes: str) -> tuple[UseCase, Events]:
    """Draft `shop`, which must pass the check."""
    draft_use_case("shop", samples, **wishes)
    assert find_problems("shop") == []
    use_case = load_use_case("shop")
    return use_case, next(iter(use_case.events.values()))


def checks() -> set[str]:
    """Return the keys that stand below a CHECK."""
    text = (load_use_case("shop").folder / "use_case.yaml").read_text()
    return {*re.findall(r"# CHECK: .*\n *(\w+):", text)}


def write(path: Path, header: str, line: Line) -> Path:
    """Write one line per order; `line` gets number, customer, time and amount."""
    chance = random.Random(1)
    lines = [header] if header else []
    for n in range(600):
        at = START + timedelta(hours=9 * n)
        lines.append(line(n, chance.randrange(90), at, round(chance.uniform(3, 3000), 2)))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_plain(path: Path) -> Path:
    return write(path, "id,user,at", lambda n, who, at, _: f"{n},{who},{at}")


def test_a_plain_export_of_orders(files: Path):
    path = write(
        files / "orders.csv",
        "OrderID,Customer,Ordered At,Total,Status,Note",
        lambda n, who, at, amount: (
            f"O{n},C{who},{at:%Y-%m-%d %H:%M},{amount},{'paid' if n % 3 else 'open'},{n % 5 or ''}"
        ),
    )
    use_case, orders = draft(path)
    assert (orders.name, orders.key, orders.timestamp) == ("orders", "order_id", "ordered_at")
    assert (use_case.entity.name, use_case.entity.key) == ("customer", "customer")
    assert orders.source.path == str(path)
    assert (use_case.zone, use_case.first_day) == ("UTC", date(2025, 1, 1))
    # One file is a closed history.
    assert use_case.last_day == date(2025, 8, 13)
    assert orders.columns["total"].range == (0, 100_000)
    assert orders.columns["status"].values == ("open", "paid")
    assert [name for name, column in orders.columns.items() if column.nullable] == ["note"]
    assert orders.daily.columns["spent"].sql == "sum((total)::DECIMAL(18, 6))"
    assert checks() == {"last_day", "zone", "total", "status", "target"}


def test_line_items_of_days_without_a_customer_in_every_row(files: Path):
    header = "InvoiceNo,StockCode,Quantity,InvoiceDate,UnitPrice,CustomerID,Empty"
    chance = random.Random(2)
    for day in ("2010-12-01", "2010-12-02", "2010-12-05"):
        lines = [header]
        for n in range(60):
            who = f"{12_346 + chance.randrange(20)}.0" if n % 4 else ""
            at = f"{day} {8 + n // 10:02}:{n % 6}0:00"
            for item in range(1 + chance.randrange(4)):
                lines.append(f"{day[-1]}{n:05},8{item},{-1 if n == 7 else 6},{at},2.55,{who},")
        (files / f"{day}.csv").write_text("\n".join([*lines, lines[-1]]) + "\n")
    use_case, orders = draft(files / "2010-12-01.csv")
    assert orders.source.path == f"{files}/{{day}}.csv"
    # The other files are found, and that two days have none.
    assert (orders.source.missing, orders.batch.allow_empty) == ("empty", True)
    assert (use_case.first_day, use_case.last_day) == (date(2010, 12, 1), None)
    assert orders.columns["customer_id"].strip_float
    assert orders.rollup.key == orders.key == "invoice_no"
    assert orders.rollup.aggregates["amount"] == "sum(quantity * unit_price)"
    assert orders.duplicates == "drop"
    # Returns: amounts may be negative.
    assert orders.columns["quantity"].range == (-100, 100)
    assert orders.batch.max_quarantined_ratio > 0.25
    assert "empty" not in orders.columns
    assert {"batch", "rollup", "quantity", "source"} <= checks()


def test_a_classic_file_without_header_whose_rows_repeat(files: Path):
    path = write(
        files / "CDNOW_master.txt",
        "",
        lambda n, who, at, amount: f" {who:05} {at:%Y%m%d} {n % 5 + 1:2} {amount:8.2f}",
    )
    path.write_text(path.read_text() * 2)
    _, orders = draft(path)
    assert orders.source.csv.delimiter == "whitespace"
    assert orders.source.csv.names == ("column_1", "column_2", "column_3", "column_4")
    assert (orders.key, orders.duplicates, orders.timestamp) == ("none", "keep", "happened_at")
    assert orders.columns["happened_at"].formats == ("%Y%m%d",)
    assert {name: column.dtype for name, column in orders.columns.items()} == {
        **{"customer_id": "string", "happened_at": "date"},
        **{"column_3": "int64", "amount": "float64"},
    }
    assert {"source", "customer_id", "duplicates"} <= checks()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_european_spreadsheet(files: Path, encoding: str):
    def european(amount: float) -> str:
        return f"{amount:,.2f}".translate(str.maketrans(",.", ".,"))

    path = write(
        files / "bestellungen.csv",
        "Bestell-Nr;Kunden-Nr;Größe;Bestelldatum;Betrag",
        lambda n, who, at, amount: (
            f'B{n};K{who};"a;b ""{n}""";{at:%d.%m.%Y %H:%M};{european(amount)}'
        ),
    )
    path.write_bytes(path.read_text().encode(encoding))
    use_case, orders = draft(path, zone="Europe/Berlin")
    assert (use_case.zone, use_case.entity.key) == ("Europe/Berlin", "kunden_nr")
    assert orders.source.csv.delimiter == ";"
    assert orders.source.csv.encoding == encoding.removesuffix("-sig")
    assert orders.key == "bestell_nr"
    assert orders.columns["bestelldatum"].formats == ("%d.%m.%Y %H:%M",)
    amount = orders.columns["betrag"]
    assert (amount.dtype, amount.decimal, amount.thousands) == ("float64", ",", ".")
    assert "grosse" in orders.columns
    assert "zone" not in checks()
    assert ("source" in checks()) == (encoding == "cp1252")


def test_parquet_with_zoned_times(files: Path):
    times = [START + timedelta(hours=5 * n) for n in range(400)]
    events = {
        "eventId": [f"e{n}" for n in range(400)],
        "userId": [1000 + n % 37 for n in range(400)],
        "eventTime": pa.array(times, pa.timestamp("us", "America/New_York")),
        "order": [n % 2 == 0 for n in range(400)],
    }
    pq.write_table(pa.table(events), files / "clicks.parquet")
    use_case, clicks = draft(files / "clicks.parquet")
    assert clicks.source.format == "parquet"
    # 1 January, 00:00 UTC, is the evening before in New York.
    assert (use_case.zone, use_case.first_day) == ("America/New_York", date(2024, 12, 31))
    assert (clicks.name, clicks.key, use_case.entity.key) == ("events", "event_id", "user_id")
    # A reserved word of SQL.
    assert clicks.columns["order_column"].source == "order"
    assert clicks.columns["order_column"].dtype == "bool"
    assert "spent" not in clicks.daily.columns
    assert "zone" in checks()


def test_amounts_of_a_number_and_a_price_with_mistakes(files: Path):
    def line(n: int, who: int, at: datetime, amount: float) -> str:
        at = datetime(1900, 1, 1, tzinfo=UTC) if n == 300 else at
        price = "n/a" if n == 400 else f"{amount:.2f}".replace(".", ",")
        return f"{at:%d/%m/%Y}|{who}|{n % 5}|{price}|{at:%d/%m/%Y}"

    use_case, orders = draft(write(files / "x.txt", "when|kunde|menge|preis|geliefert", line))
    # A day 125 years before all others is a mistake; so is what is no number.
    assert (use_case.first_day, orders.timestamp) == (date(2025, 1, 1), "when_column")
    assert orders.daily.columns["spent"].sql == "sum((menge * preis)::DECIMAL(18, 6))"
    assert not orders.columns["preis"].nullable
    assert {"when_column", "preis", "duplicates"} <= checks()


def test_several_compressed_files_of_a_log_without_any_key(files: Path):
    path = write(
        files / "visits.tsv",
        "user\tat\tpages",
        lambda n, who, at, _: f"u{who}\t{at:%Y-%m-%dT%H:00:00+02:00}\t{n % 3}",
    )
    header, *lines = path.read_text().splitlines()
    for name, part in (("visits_a", lines[:300]), ("visits_b", lines[299:])):
        (files / f"{name}.tsv.gz").write_bytes(gzip.compress("\n".join([header, *part]).encode()))
    use_case, visits = draft(files / "visits_a.tsv.gz", files / "visits_b.tsv.gz")
    assert visits.source.path == f"{files}/visits_*.gz"
    assert visits.source.csv.delimiter == "\t"
    assert (visits.key, visits.duplicates, use_case.entity.key) == ("none", "keep", "user")
    assert {"zone", "source", "duplicates"} <= checks()


@pytest.mark.parametrize(
    ("pattern", "template"),
    [
        ("%Y-%m-%d.csv", "{day}.csv"),
        ("%Y/%m/%d/part.csv", "{day:%Y/%m/%d}/part.csv"),
        ("2020-01-01/orders_%Y%m%d.csv", "2020-01-01/orders_{day:%Y%m%d}.csv"),
    ],
)
def test_days_in_paths(files: Path, pattern: str, template: str):
    paths = [files / f"{START + timedelta(days=n):{pattern}}" for n in range(3)]
    for n, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        at = START + timedelta(days=n)
        path.write_text("id,user,at\n" + "".join(f"{n}{i},{i},{at}\n" for i in range(9)))
    draft_use_case("shop", paths[:1])
    (table,) = load_use_case("shop").events.values()
    assert table.source.path == f"{files}/{template}"


@pytest.mark.parametrize(
    ("texts", "way", "is_doubtful"),
    [
        (["1", "-20"], {"dtype": "int64"}, False),
        (["1,5", "2"], {"dtype": "float64", "decimal": ","}, False),
        (["1,234", "2,500.5"], {"dtype": "float64", "thousands": ","}, False),
        (["1.234", "2.500"], {"dtype": "float64", "decimal": "."}, True),
        (["007", "12"], {"dtype": "string"}, False),
        (["yes", "No"], {"dtype": "bool"}, False),
        (["31/01/2025", "01/02/2025"], {"dtype": "date", "formats": ("%d/%m/%Y",)}, False),
        (["03/01/2025", "01/03/2025"], {"dtype": "date", "formats": ("%d/%m/%Y",)}, True),
        (["1/31/25 9:05"], {"dtype": "timestamp", "formats": ("%m/%d/%y %H:%M",)}, False),
        (["3-Mar-2025", "14-Apr-2025"], {"dtype": "date", "formats": ("%d-%b-%Y",)}, False),
        (["20250102", "20250131"], {"dtype": "date", "formats": ("%Y%m%d",)}, False),
        (["20259902", "20250131"], {"dtype": "int64"}, False),
        (["1735689600", "1735689601"], {"dtype": "int64"}, False),
        (["2025-01-02T10:00:00.123Z"], {"dtype": "timestamp"}, False),
    ],
)
def test_types(texts: list[str], way: dict[str, Any], is_doubtful: bool):
    values = pa.array([*texts, " ", None])
    raw = raw_table({"x": values}, source="test", rows=pa.array(range(len(values))))
    with opened("test") as connection:
        (found,) = find_columns(connection, raw, "UTC")
    assert (found.filled, found.nulls) == (len(texts), 2)
    assert found.way | way == found.way
    assert bool(found.checks) == is_doubtful


@pytest.mark.parametrize(("entities", "horizon"), [(20, 14), (80, 30), (400, 30)])
def test_the_usual_gap_says_when_somebody_is_lost(files: Path, entities: int, horizon: int):
    """Everybody comes every 7.5, 30 and 150 days; 225 days of history allow for no more than 30."""
    path = write(files / "log.csv", "id,user,at", lambda n, _, at, __: f"{n},{n % entities},{at}")
    use_case, table = draft(path)
    assert use_case.target.horizon_days == horizon
    assert table.daily.lookback_days == 2 * horizon


def test_what_is_given_is_not_guessed(files: Path):
    path = write(
        files / "log.csv",
        "a,b,c,d,e",
        lambda n, who, at, _: f"{n},{who},{at},{at + timedelta(days=400)},{n % 90}",
    )
    use_case, table = draft(path, entity="e", time="d", key="none", zone="Asia/Tokyo")
    assert (use_case.entity.key, table.timestamp, table.key) == ("e", "d", "none")
    assert use_case.first_day == date(2026, 2, 5)
    assert not {"zone", "d", "e", "key"} & checks()


CHURN = "customerID,tenure,MonthlyCharges,Churn\n7590-VHVEG,1,29.85,No\n5575-GNVDE,34,56.95,Yes\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        ("a,b\n1,2\n3,4\n5,6\n", r"No column looks like a time \(--time\): a, b"),
        ("user,at\n1,1735689600\n1,1735689601\n", "have numbers of seconds delivered as such"),
        ("a,at\nx,2025-01-01\ny,2025-01-02\n", r"somebody who comes back \(--entity\): a, at"),
        (CHURN, "one row for each customer, without a time, is none"),
        ("Sales 2025\n\na,b,c\n" + "1,2,3\n" * 20, "without a title above it"),
        ("PK\x03\x04", "spreadsheet or archive"),
    ],
)
def test_what_is_no_table_of_events_is_told(files: Path, content: str, said: str):
    (files / "x.csv").write_text(content)
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        draft_use_case("shop", [files / "x.csv"])
    assert not (files.parent / "use_cases" / "shop").exists()


def test_what_is_given_wrongly_is_told(files: Path):
    path, other = write_plain(files / "orders.csv"), files / "products.csv"
    other.write_text("sku,price\n1,2.5\n")
    for name, samples, wishes, said in (
        ("Shop!", [path], {}, "lower-case letters"),
        ("shop", [files / "none.csv"], {}, "There is no file"),
        ("shop", [path, other], {}, "different columns.*by hand, as docs/use_case.md"),
        ("shop", [path], {"zone": "Europe/Berlim"}, "Europe/Berlim.*expected a name"),
        ("shop", [path], {"entity": "who"}, "--entity is 'who'.*id, user, at"),
        ("shop", [path], {"key": "who"}, "--key is 'who'.*id, user, at"),
        ("shop", [path], {"time": "user"}, r"looks like a time \(--time\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            draft_use_case(name, samples, **wishes)


def test_the_command_says_what_is_next_and_overwrites_nothing(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    path = str(write_plain(files / "orders.csv"))
    monkeypatch.setattr("sys.argv", ["evergreen", "new", "shop", "--from", path, "--zone", "UTC"])
    main()
    out = capsys.readouterr().out
    assert "Of 600 rows of the sample it accepts 600." in out
    assert "use_case.yaml (3)" in out
    assert "shop_history --unpause --from 2025-01-01 --to 2025-08-13" in out
    written = {file.name: file for file in (files.parent / "use_cases" / "shop").iterdir()}
    assert {*written} == {"use_case.yaml", "features.sql", "labels.sql"}
    written["labels.sql"].write_text("mine")
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "exists already, and is left alone" in capsys.readouterr().err
    assert written["labels.sql"].read_text() == "mine"


@pytest.mark.real_data
def test_the_days_of_a_real_shop(online_retail: Path):
    use_case, orders = draft(online_retail / "by-day" / "2010-12-01.csv")
    assert orders.source.path.endswith("/by-day/{day}.csv")
    assert (use_case.first_day, use_case.last_day) == (date(2010, 12, 1), None)
    assert (use_case.entity.key, orders.timestamp) == ("customer_id", "invoice_date")
    assert orders.rollup.key == "invoice_no"
    assert orders.columns["customer_id"].strip_float
    assert use_case.target.horizon_days == 90
