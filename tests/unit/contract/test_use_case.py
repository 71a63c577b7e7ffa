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
        ("label.horizon", 90, r"label\.horizon: unknown key"),
        ("label.horizon_days", KeyError, r"label\.horizon_days: missing"),
        ("label.horizon_days", "soon", r"label\.horizon_days: found 'soon'"),
        ("label.horizon_days", 0, r"label\.horizon_days: found 0"),
        ("first_day", "2024-13-01", r"first_day: found '2024-13-01'"),
        ("source.kind", "kafka", r"source\.kind: found 'kafka'; expected one of 'files'"),
        ("source.kind", KeyError, r"source\.kind: missing; expected one of 'files'"),
        ("source.customers", 0, r"source\.customers: found 0; expected greater than or equal to 1"),
        ("entity.key", "Customer Id; DROP", r"entity\.key: found 'Customer Id; DROP'"),
        ("entity.key", "client_id", r"entity\.key: found 'client_id', expected a published"),
        ("orders.time", "when", r"- orders\.time: found 'when', expected one of"),
        ("orders.columns.amount.dtype", "money", r"orders\.columns\.amount\.dtype: found 'money'"),
        ("features.recency", "age", r"features\.recency: found 'age', expected one of"),
        ("features.columns.total_orders.dtype", "string", r"total_orders\.dtype: found 'string'"),
        ("scoring.bands", {"low": 0.0, "high": 0.7}, r"scoring\.bands: .*descend"),
        ("monitoring.persistence", [4, 3], r"monitoring\.persistence: .*m <= n"),
        (
            "orders.time",
            "status",
            r"orders\.columns\.status\.dtype: found 'string', exp",
        ),
        ("orders.columns.ordered_at.zone", "Mars/Olympus", r"ordered_at\.zone: .*time zone"),
        ("orders.columns.ordered_at.formats", ["%Q"], r"ordered_at\.formats: .*no year, month"),
        ("orders.rules", [{"name": "a", "sql": "1"}] * 2, r"orders\.rules: found 'a' twice"),
        ("last_day", "2001-01-01", r"last_day: found 2001-01-01, expected first_day"),
        ("orders.columns.day", {"source": "d", "dtype": "date"}, r"orders\.columns\.day: .*reserv"),
        ("orders.rollup", {"key": "no", "aggregates": {}}, r"orders\.rollup\.key: found 'no'"),
        ("orders.rollup", {"key": "no", "aggregates": {}}, r"rollup\.aggregates: 'ordered_at'"),
        ("orders", "all of them", r"orders: found 'all of them'"),
        ("features.columns", {}, r"features\.columns: found {}; .*at least 1 item"),
        ("name", "other", r"found 'other', expected 'churn'"),
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
    values = nested(nested(declared(), "entity.key", "client_id"), "features.recency", "age")
    values = nested(values, "last_day", "2001-01-01")
    with pytest.raises(ConfigError) as caught:
        load_use_case_file(write(tmp_path, values))
    lines = [line.split(":")[0] for line in str(caught.value).splitlines()[1:-1]]
    assert lines == ["  - entity.key", "  - features.recency", "  - last_day"]


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
