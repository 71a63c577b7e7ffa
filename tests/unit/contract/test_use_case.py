from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen.contract import (
    expand_variables,
    list_use_cases,
    load_use_case,
    load_use_case_file,
    parse_day,
)
from evergreen.errors import ConfigError
from evergreen.settings import PROJECT_ROOT

CHURN = PROJECT_ROOT / "include" / "use_cases" / "churn"


def declared() -> dict[str, Any]:
    return yaml.safe_load((CHURN / "use_case.yaml").read_text())


def write(folder: Path, content: dict[str, Any] | str) -> Path:
    folder = folder / "churn"
    folder.mkdir()
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    (folder / "use_case.yaml").write_text(text)
    for name in ("features.sql", "labels.sql"):
        (folder / name).write_text((CHURN / name).read_text())
    return folder / "use_case.yaml"


@pytest.mark.parametrize("name", list_use_cases())
def test_every_shipped_use_case_is_valid(name: str) -> None:
    use_case = load_use_case(name)
    assert use_case.name == name
    assert "as_of_days" in use_case.features_sql
    assert "as_of_days" in use_case.labels_sql


def test_there_are_use_cases() -> None:
    assert "churn" in list_use_cases()


def test_unknown_use_case_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no use case 'chrun'.*Known use cases: .*churn"):
        load_use_case("chrun")


def nested(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    target = values
    for key in parents:
        target = target[key]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("featurs", {}, r"featurs: unknown key"),
        ("target.horizon", 90, r"target\.horizon: unknown key"),
        ("target.horizon_days", KeyError, r"target\.horizon_days: missing"),
        ("target.horizon_days", "soon", r"target\.horizon_days: found 'soon'"),
        ("target.horizon_days", 0, r"target\.horizon_days: found 0"),
        ("first_day", "2024-13-01", r"first_day: found '2024-13-01'"),
        (
            "events.orders.source.kind",
            "kafka",
            r"source\.kind: found 'kafka'; expected one of 'files'",
        ),
        ("events.orders.source.kind", KeyError, r"source\.kind: missing; expected one of 'files'"),
        ("events.orders.source.customers", 0, r"source\.customers: found 0; expected greater than"),
        ("entity.key", "Customer Id; DROP", r"entity\.key: found 'Customer Id; DROP'"),
        ("entity.key", "client_id", r"entity\.key: found 'client_id', expected a published"),
        (
            "events.orders.timestamp",
            "when",
            r"- events\.orders\.timestamp: found 'when', expected one of",
        ),
        (
            "events.orders.columns.amount.dtype",
            "money",
            r"orders\.columns\.amount\.dtype: found 'money'",
        ),
        ("training.baselines", ["age"], r"training\.baselines: found 'age', expected features"),
        ("training.slices", {"age": []}, r"training\.slices: found 'age', expected features"),
        (
            "training.slices",
            {"orders_30d": []},
            r"slices\.orders_30d: found \[\]; expected ascending",
        ),
        ("training.slices", {"orders_30d": [3, 1]}, r"slices\.orders_30d: found \[3\.0, 1\.0\]"),
        ("features.columns.total_orders.dtype", "string", r"total_orders\.dtype: found 'string'"),
        ("scoring.bands", {"low": 0.0, "high": 0.7}, r"scoring\.bands: .*descend"),
        (
            "scoring.reasons_for",
            ["top"],
            r"reasons_for: found 'top', expected .*high, med",
        ),
        (
            "rollout",
            {"shares": [0.5, 0.1]},
            r"rollout\.shares: .*must ascend, found \[0\.5",
        ),
        (
            "experiment",
            {"name": "a", "starts": "2026-01-02", "ends": "2026-01-01", "smallest_effect": 1},
            r"experiment\.ends: found 2026-01-01, expected starts",
        ),
        (
            "experiment",
            {"name": "a", "starts": "2026-01-02", "bands": ["top"], "smallest_effect": 1},
            r"experiment\.bands: found 'top', expected bands",
        ),
        ("monitoring.persistence", [4, 3], r"monitoring\.persistence: .*m <= n"),
        (
            "events.orders.timestamp",
            "status",
            r"orders\.columns\.status\.dtype: found 'string', exp",
        ),
        ("events.orders.columns.ordered_at.zone", "Mars/Olympus", r"ordered_at\.zone: .*time zone"),
        (
            "events.orders.columns.ordered_at.formats",
            ["%Q"],
            r"ordered_at\.formats: .*no year, month",
        ),
        ("events.orders.rules", [{"name": "a", "sql": "1"}] * 2, r"orders\.rules: found 'a' twice"),
        ("last_day", "2001-01-01", r"last_day: found 2001-01-01, expected first_day"),
        (
            "events.orders.columns.day",
            {"source": "d", "dtype": "date"},
            r"orders\.columns\.day: .*reserv",
        ),
        (
            "events.orders.rollup",
            {"key": "no", "aggregates": {}},
            r"orders\.rollup\.key: found 'no'",
        ),
        (
            "events.orders.rollup",
            {"key": "no", "aggregates": {}},
            r"rollup\.aggregates: 'ordered_at'",
        ),
        ("events.orders", "all of them", r"orders: found 'all of them'"),
        ("features.columns", {}, r"features\.columns: found {}; .*at least 1 item"),
        ("name", "other", r"found 'other', expected 'churn'"),
        ("zone", "Mars/Olympus", r"zone: found 'Mars/Olympus'; .*time zone"),
        ("events", {}, r"events: found {}; .*at least 1 item"),
        (
            "target.kind",
            "guess",
            r"target\.kind: found 'guess'; expected one of 'binary', 'number'",
        ),
        ("target.quantiles", [0.5], r"target\.quantiles: unknown key"),
        ("gate.min_rmse", 3, r"gate\.min_rmse: unknown key; expected a bound of a metric"),
        ("gate.min_auc", "high", r"gate\.min_auc: found 'high', expected a number"),
        ("gate.speed", 3, r"gate\.speed: unknown key"),
        ("scoring.bands", {"high": 0.7, "low": 0.1}, r"scoring\.bands: .*expected 0"),
        ("features.columns.total_orders.monotone", "up", r"total_orders\.monotone: found 'up'"),
        # Keys of earlier contracts, with what to write instead.
        ("source", {"kind": "files"}, r"source: unknown key .*events\.<table>\.source"),
        ("orders", {"key": "id"}, r"orders: unknown key .*write events: and below it orders:"),
        ("daily", {"lookback_days": 3}, r"daily: unknown key .*SQL reads it as <table>_daily"),
        ("label", {"name": "x"}, r"label: unknown key .*renamed: target"),
        ("features.recency", "x", r"features\.recency: unknown key .*training\.baselines"),
        ("events.orders.time", "x", r"events\.orders\.time: unknown key .*renamed: timestamp"),
        ("monitoring.max_auc_drop", 0.1, r"max_auc_drop: unknown key .*max_performance_drop"),
        (
            "gate.min_holdout_minority",
            3,
            r"minority: unknown key.*: min_holdout_minority_rows",
        ),
    ],
)
def test_wrong_declarations_name_file_key_found_and_expected(
    tmp_path: Path, path: str, value: Any, expected: str
) -> None:
    file = write(tmp_path, nested(declared(), path, value))
    with pytest.raises(ConfigError, match=expected) as caught:
        load_use_case_file(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    # A line per problem, and none of them holds half the file.
    assert all(len(line) < 250 for line in message.removeprefix(str(file)).splitlines()), message
    assert len(message) < 900 + len(str(file))


def test_all_contradictions_are_told_at_once(tmp_path: Path) -> None:
    values = nested(nested(declared(), "entity.key", "client_id"), "training.baselines", ["age"])
    values = nested(values, "last_day", "2001-01-01")
    with pytest.raises(ConfigError) as caught:
        load_use_case_file(write(tmp_path, values))
    lines = [line.split(":")[0] for line in str(caught.value).splitlines()[1:-1]]
    assert lines == ["  - entity.key", "  - training.baselines", "  - last_day"]


def test_text_that_is_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_use_case_file(write(tmp_path, "name: [churn"))


def test_yaml_that_is_not_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_use_case_file(write(tmp_path, "- churn"))


def test_missing_and_empty_sql(tmp_path: Path) -> None:
    file = write(tmp_path, declared())
    (file.parent / "labels.sql").write_text("  \n")
    with pytest.raises(ConfigError, match=r"labels\.sql is empty"):
        load_use_case_file(file)
    (file.parent / "labels.sql").unlink()
    with pytest.raises(ConfigError, match=r"labels\.sql does not exist"):
        load_use_case_file(file)


def test_variables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "/data")
    assert expand_variables("${DATA_DIR}/{day}.csv") == "/data/{day}.csv"
    with pytest.raises(ConfigError, match="NOWHERE_DIR, which is not set"):
        expand_variables("${NOWHERE_DIR}/x")


def test_days_are_written_one_way() -> None:
    assert parse_day("2026-02-28") == date(2026, 2, 28)
    for text in ("2026-02-29", "20260228", " 2026-02-28", ""):
        with pytest.raises(ConfigError, match="YYYY-MM-DD"):
            parse_day(text)


# --- zones, tables, and folders that build on others ---------------------------------------------


def test_whose_midnights_cut_the_files_must_be_said(tmp_path: Path) -> None:
    values = nested(declared(), "events.orders.source", {"kind": "files", "path": "/x/{day}.csv"})
    values = nested(values, "events.orders.columns.ordered_at.zone", "Europe/Berlin")
    file = write(tmp_path, values)
    with pytest.raises(ConfigError, match=r"zone: missing; .*zone: Europe/Berlin, or zone: UTC"):
        load_use_case_file(file)
    for zone in ("Europe/Berlin", "UTC"):
        file.write_text(yaml.safe_dump(values | {"zone": zone}, sort_keys=False))
        assert load_use_case_file(file).zone == zone


def test_tables_have_names_of_their_own(tmp_path: Path) -> None:
    orders = declared()["events"]["orders"]
    values = declared()
    values["events"] |= {"features": orders, "orders_daily": orders}
    columns = {"columns": {"customer_id": {"source": "c", "dtype": "string"}}, "valid_from": None}
    values["attributes"] = {"orders": {"source": {"kind": "files", "path": "{day}"}, **columns}}
    with pytest.raises(ConfigError) as caught:
        load_use_case_file(write(tmp_path, values))
    for found in (
        "events.features: this name",
        "events.orders_daily: this",
        "attributes.orders: a",
    ):
        assert found in str(caught.value)


def test_the_key_of_the_entity_is_the_same_in_all_tables(tmp_path: Path) -> None:
    values = declared()
    numbered = declared()["events"]["orders"]
    numbered["columns"]["customer_id"]["dtype"] = "int64"
    values["events"]["visits"] = numbered
    with pytest.raises(ConfigError, match=r"customer_id is string in events\.orders, int64 in ev"):
        load_use_case_file(write(tmp_path, values))


def test_only_tables_whose_rows_are_events_with_a_key_are_pushed(tmp_path: Path) -> None:
    values = declared() | {"serving": {"push": ["orders"]}}
    assert load_use_case_file(write(tmp_path, values)).serving.push == ("orders",)
    assert load_use_case("churn").serving.push == ()
    orders = values["events"]["orders"]
    aggregates = {n: f"min({n})" for n in orders["columns"] if n != "order_id"}
    rolled = {"key": "order_id", "aggregates": aggregates}
    for number, (changed, expected) in enumerate(
        [
            (
                {"serving": {"push": ["visits"]}},
                r"serving\.push: found 'visits', expected .*orders",
            ),
            ({"events": {"orders": orders | {"key": "none"}}}, r"serving\.push: .*key is none"),
            (
                {"events": {"orders": orders | {"rollup": rolled}}},
                r"serving\.push: .*rolls up line",
            ),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ConfigError, match=expected):
            load_use_case_file(write(folder, values | changed))


def builds_on(tmp_path: Path, **changes: Any) -> Path:
    write(tmp_path, declared())
    folder = tmp_path / "spend"
    folder.mkdir()
    values = {
        "name": "spend",
        "title": "Spend",
        "features": {"of": "churn"},
        "target": {
            "kind": "number",
            "name": "spend",
            "description": "Money.",
            "horizon_days": 30,
            "distribution": "tweedie",
        },
        **changes,
    }
    (folder / "use_case.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    (folder / "labels.sql").write_text((CHURN / "labels.sql").read_text())
    return folder / "use_case.yaml"


def test_a_folder_builds_on_another(tmp_path: Path) -> None:
    spend = load_use_case_file(builds_on(tmp_path))
    churn = load_use_case_file(tmp_path / "churn" / "use_case.yaml")
    assert spend.base == "churn"
    assert spend.tables.keys() == churn.tables.keys()
    assert spend.features_sql == churn.features_sql
    assert spend.contract_digest("features") == churn.contract_digest("features")
    assert spend.contract_digest("labels") != churn.contract_digest("labels")
    owners = {table: spend.owner_of(table) for table in ("orders", "orders_totals", "features")}
    assert set(owners.values()) == {"churn"}
    own = ("labels", "predictions", "drift", "retraining")
    assert {spend.owner_of(table) for table in own} == {"spend"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"features": {"of": "nobody"}}, r"features\.of: found 'nobody', but .* does not exist"),
        ({"features": {"of": "spend"}}, r"features\.of: found 'spend', expected the name of an"),
        ({"features": {"of": "churn", "ttl_days": 2}}, r"features\.ttl_days: not beside `of`"),
        ({"events": {}}, r"events: declared by churn, not here"),
        ({"zone": "UTC"}, r"zone: declared by churn, not here"),
        ({"serving": {"push": ["orders"]}}, r"serving\.push: the tables are those of churn"),
    ],
)
def test_what_a_folder_that_builds_on_another_may_not_say(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_use_case_file(builds_on(tmp_path, **changes))


def test_nobody_builds_on_what_builds_on_another(tmp_path: Path) -> None:
    file = builds_on(tmp_path)
    third = tmp_path / "third"
    third.mkdir()
    text = (
        file.read_text().replace("name: spend", "name: third", 1).replace("of: churn", "of: spend")
    )
    (third / "use_case.yaml").write_text(text)
    with pytest.raises(ConfigError, match="spend builds on churn itself; name churn"):
        load_use_case_file(third / "use_case.yaml")


def test_reasons_are_for_the_highest_band_unless_others_are_named(tmp_path: Path) -> None:
    churn = load_use_case("churn")
    assert churn.explained_bands == ["high"]
    digests = {churn.contract_digest("predictions")}
    for number, (wanted, explained) in enumerate(
        [(["low", "high"], ["high", "low"]), ([], []), (["high"], ["high"])]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write(folder, nested(declared(), "scoring.reasons_for", wanted))
        use_case = load_use_case_file(path)
        assert use_case.explained_bands == explained
        digests.add(use_case.contract_digest("predictions"))
    # What the default says may be written out, and is the same.
    assert len(digests) == 3


def test_words_and_demands_are_no_part_of_what_a_table_is() -> None:
    churn = load_use_case("churn")
    before = {table: churn.contract_digest(table) for table in ("orders", "features", "labels")}
    orders = churn.events["orders"]
    amount = orders.columns["amount"].model_copy(update={"description": "Other words."})
    told = orders.model_copy(update={"columns": {**orders.columns, "amount": amount}})
    told = told.model_copy(update={"batch": orders.batch.model_copy(update={"max_age_hours": 1})})
    other = churn.model_copy(update={"events": {"orders": told}})
    assert {table: other.contract_digest(table) for table in before} == before
    moved = churn.model_copy(update={"zone": "Europe/Berlin"})
    assert all(moved.contract_digest(table) != digest for table, digest in before.items())
