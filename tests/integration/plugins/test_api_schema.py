"""The types of the answers that pages are compiled against are those of the server."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from evergreen.settings import PROJECT_ROOT

# Starlette's test client, which Airflow's own modules import too, prefers a client of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")

SCHEMA = PROJECT_ROOT / "plugins" / "www" / "api.schema.json"


def test_the_pages_are_compiled_against_the_answers_that_are_given(app: Any) -> None:
    """`UPDATE_SNAPSHOTS=1 make test` writes the schema; then `make pages`."""
    schemas = app.openapi()["components"]["schemas"]
    answers = {name: of for name, of in schemas.items() if not name.endswith("ValidationError")}
    text = json.dumps({"$defs": bare(answers)}, indent=1, sort_keys=True) + "\n"
    text = text.replace("#/components/schemas/", "#/$defs/")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text


def bare(schema: Any) -> Any:
    """Leave only what is about types."""
    if isinstance(schema, list):
        return [bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: bare(value)
        for name, value in schema.items()
        if not (name in ("title", "description") and isinstance(value, str))
    }
    if "properties" in schema:
        # An answer has all of them, also those that its class has a default for.
        found |= {"additionalProperties": False, "required": sorted(schema["properties"])}
    return found
