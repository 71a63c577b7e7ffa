from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from evergreen.contract import AnyTable, Attributes, CsvFormat, Events, References
from evergreen.contract.tables import Setting
from evergreen.errors import ConfigError
from evergreen.sources import open_source, required_columns

FILES = {"kind": "files", "path": "products.csv"}
SQL = {"kind": "sql", "secret": "shop", "query": "SELECT * FROM products"}
GENERATOR = {
    "kind": "generator",
    "segments": [{"name": "all", "share": 1, "r": 1, "alpha": 1, "a": 1, "b": 1}],
}
COLUMNS = {
    "customer_id": {"source": "Customer", "dtype": "string"},
    "at": {"source": "At", "dtype": "timestamp"},
    "on_day": {"source": "At", "dtype": "date"},
}
SETTING = Setting("shop", "Europe/Berlin", date(2026, 1, 1), None, "customer_id")


def table(kind: type[AnyTable], source: dict[str, Any], **keys: Any) -> AnyTable:
    declared = kind.model_validate({"source": source, "key": "none", "columns": COLUMNS, **keys})
    declared.bind("products", SETTING)
    return declared


def test_a_column_that_is_mapped_twice_is_required_once():
    assert required_columns(table(References, FILES)) == ("Customer", "At")


def test_only_a_reference_belongs_to_the_first_day():
    assert open_source(table(References, FILES)).only_day == date(2026, 1, 1)
    assert open_source(table(Events, FILES, timestamp="at")).only_day is None
    assert open_source(table(Attributes, FILES, valid_from="at")).only_day is None


def test_days_are_those_of_the_use_case():
    assert open_source(table(References, SQL)).zone == "Europe/Berlin"
    world = open_source(table(Events, GENERATOR, timestamp="at")).world
    assert (world.first_day, world.zone) == (date(2026, 1, 1), "Europe/Berlin")


@pytest.mark.parametrize("kind", [References, Attributes])
def test_a_generator_makes_events_only(kind: type[AnyTable]):
    with pytest.raises(ConfigError, match=r"shop/use_case\.yaml: \w+\.products\.source\.kind"):
        open_source(table(kind, GENERATOR))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " ", "|", "whitespace"])
def test_delimiters(delimiter: str):
    assert CsvFormat(delimiter=delimiter).delimiter == delimiter


@pytest.mark.parametrize(
    "delimiter", ["", ",,", "\\t", "\n", "\r", "\u00a7", "white", "whitespace\n"]
)
def test_what_is_no_delimiter_says_what_is(delimiter: str):
    with pytest.raises(ValidationError, match=r"one ASCII character .*double quotes.*whitespace"):
        CsvFormat(delimiter=delimiter)


@pytest.mark.parametrize(
    ("delimiter", "quote"), [(",", ","), ("whitespace", " "), ("whitespace", "\t")]
)
def test_quote_and_delimiter_differ(delimiter: str, quote: str):
    with pytest.raises(ValidationError, match=r"quote: found .*change one"):
        CsvFormat(delimiter=delimiter, quote=quote)
