"""The documentation names what exists, and what exists is in the documentation."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel

from evergreen.contract import UseCase, load_use_case_file
from evergreen.settings import DATABASES, PROJECT_ROOT

README = PROJECT_ROOT / "README.md"
DOCS = PROJECT_ROOT / "docs"
PACKAGE = PROJECT_ROOT / "include" / "evergreen"
COMMANDS, SETTINGS = DOCS / "commands.md", DOCS / "settings.md"
PAGES = sorted(
    [
        *PROJECT_ROOT.glob("*.md"),
        *PROJECT_ROOT.glob("docs/**/*.md"),
        *PROJECT_ROOT.glob("include/use_cases/**/*.md"),
    ]
)
ADRS = sorted((DOCS / "adr").glob("[0-9]*.md"))
# Handed from one process of ours to another; nobody sets them by hand.
INTERNAL_VARIABLES = {
    "EVERGREEN_AIRFLOW_COMMAND",
    "EVERGREEN_AIRFLOW_INSTANCE",
    *(
        f"EVERGREEN_FEAST_{part}"
        for part in ("REGISTRY", "HOST", "PORT", "DATABASE", "USER", "PASSWORD", "SSLMODE")
    ),
    "EVERGREEN_FEAST_SSLROOTCERT",
}


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def _code(page: Path) -> str:
    """What a page shows as code: spans and blocks."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return "\n".join([*blocks, *spans])


# --- commands ------------------------------------------------------------------------------------


def test_every_make_target_in_the_pages_exists_and_every_target_is_explained():
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    named = {page: set(re.findall(r"\bmake ([a-z0-9-]+)", _code(page))) for page in PAGES}
    assert {"demo", "test"} <= targets
    assert {page.name: names - targets for page, names in named.items() if names - targets} == {}
    assert targets - named[COMMANDS] == set()


def test_every_command_in_the_pages_exists_and_every_command_is_explained():
    from evergreen.cli import cli

    named = {
        page: set(re.findall(r"\bevergreen ([a-z]+(?:-[a-z]+)*)\b", _code(page))) for page in PAGES
    }
    known = {*cli.commands, "import"}  # `from evergreen import lake`
    assert {page.name: names - known for page, names in named.items() if names - known} == {}
    assert set(cli.commands) - named[COMMANDS] == set()


def test_every_dag_in_the_readme_has_a_file_and_every_file_is_in_the_readme():
    helpers = {"conventions", "links", "patience", "deadlines", "shards", "broken_use_cases"}
    stages = {path.stem for path in (PROJECT_ROOT / "dags").glob("*.py")} - helpers
    named = set(re.findall(r"\b(?:churn|shop|spend)_([a-z]+)\b", README.read_text()))
    assert "ingest" in stages
    assert named == stages - {"maintenance"}
    assert "`maintenance`" in README.read_text()


# --- settings ------------------------------------------------------------------------------------


def _variables_of_the_code() -> set[str]:
    found: set[str] = set()
    for path in (PROJECT_ROOT / "include").rglob("*"):
        if path.suffix not in (".py", ".yaml"):
            continue
        text = path.read_text()
        found |= set(re.findall(r"(?<!_)EVERGREEN_[A-Z_]*[A-Z](?![A-Z_<{])", text))
        for family in ("SECRET", "ALERT"):
            if re.search(rf"EVERGREEN_{family}_[<{{]", text):
                found.add(f"EVERGREEN_{family}_<NAME>")
    return found | {f"EVERGREEN_{name.upper()}_URL" for name in DATABASES}


def test_the_table_of_settings_is_what_the_code_reads():
    table = re.findall(r"^\| `(EVERGREEN_[A-Z_<>]+)` \|", SETTINGS.read_text(), re.MULTILINE)
    assert len(table) == len(set(table))
    assert set(table) == _variables_of_the_code() - INTERNAL_VARIABLES


def test_internal_variables_are_used_and_said_to_be_internal():
    assert _variables_of_the_code() >= INTERNAL_VARIABLES
    sentence = re.search(r"^.*Set by the program, not by you: (.*)$", SETTINGS.read_text(), re.M)
    assert sentence
    assert set(re.findall(r"`(\w+)`", sentence[1])) == INTERNAL_VARIABLES


def test_defaults_of_the_settings_are_those_of_the_code():
    from evergreen.settings import load_settings

    rows = dict(re.findall(r"^\| `(EVERGREEN_\w+)` \| `(\d+)` \|", SETTINGS.read_text(), re.M))
    settings = load_settings()
    assert rows == {
        "EVERGREEN_THREADS": str(settings.threads),
        "EVERGREEN_MEMORY_MB": str(settings.memory_mb),
        "EVERGREEN_SPILL_MB": str(settings.spill_mb),
        "EVERGREEN_TRAINING_MB": str(settings.training_mb),
        "EVERGREEN_DASK_WORKERS": str(settings.dask_workers),
        "EVERGREEN_SQL_TIMEOUT_SECONDS": str(settings.sql_timeout_seconds),
    }


# --- the declaration of a use case ---------------------------------------------------------------


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Every model an annotation mentions, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _all_models(root: type[BaseModel]) -> set[type[BaseModel]]:
    found, waiting = set(), {root}
    while waiting:
        model = waiting.pop()
        found.add(model)
        for field in model.model_fields.values():
            waiting |= set(_models(field.annotation)) - found
            for extra in field.metadata:
                waiting |= set(_models(extra)) - found
    return found


def test_every_key_of_a_use_case_is_explained():
    page = (DOCS / "use_case.md").read_text()
    explained = {part for span in re.findall(r"`([^`\n]+)`", page) for part in span.split(".")}
    models = _all_models(UseCase)
    assert len(models) > 15
    missing = {
        f"{model.__name__}.{key}"
        for model in models
        for key in model.model_fields
        if key not in explained
    }
    assert missing == set()


def test_no_key_is_explained_that_does_not_exist():
    page = (DOCS / "use_case.md").read_text()
    keys = {key for model in _all_models(UseCase) for key in model.model_fields}
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    counts = {name for model in _all_models(UseCase) for name in getattr(model, "enough", ())}
    keys |= {f"min_holdout_{name}" for name in counts}
    assert {name for name in named if name.rsplit(".", 1)[-1] not in keys} == set()


@pytest.fixture
def example(tmp_path: Path) -> UseCase:
    """The use case that the README shows, as a folder."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "use_case.yaml").write_text(_blocks(README, "yaml")[0])
    features, labels = _blocks(README, "sql")
    (folder / "features.sql").write_text(features)
    (folder / "labels.sql").write_text(labels)
    return load_use_case_file(folder / "use_case.yaml")


def test_the_example_of_the_readme_loads_with_either_source(example: UseCase):
    declared = yaml.safe_load((example.folder / "use_case.yaml").read_text())
    declared["events"]["orders"] |= yaml.safe_load(_blocks(DOCS / "use_case.md", "yaml")[0])
    assert UseCase.model_validate(declared).events["orders"].source.kind == "sql"
    assert example.events["orders"].source.kind == "files"


def test_the_sql_of_the_readme_computes_its_features_and_labels(example: UseCase, tmp_path: Path):
    from evergreen.features.compute.past import Given
    from evergreen.features.compute.run import compute_features, compute_labels

    at = [datetime(2025, 1, day, 11, tzinfo=UTC) for day in (1, 3, 3)]
    orders = pa.table(
        {
            "order_id": ["1", "2", "3"],
            "customer_id": ["early", "early", "late"],
            "ordered_at": pa.array(at, pa.timestamp("us", "UTC")),
            "amount": [10.0, 5.0, 7.0],
            "day": [moment.date() for moment in at],
        }
    )
    path = tmp_path / "orders.parquet"
    pq.write_table(orders, path)
    days = [date(2025, 1, 1) + timedelta(days=n) for n in range(3)]
    given = {"orders": Given([str(path)])}
    by = [("as_of", "ascending"), ("customer_id", "ascending")]
    features = compute_features(example, given, days).sort_by(by)
    assert features["customer_id"].to_pylist() == ["early", "early", "early", "late"]
    assert features["spent_90d"].to_pylist() == [10.0, 10.0, 15.0, 7.0]
    assert features["days_since_last_order"].to_pylist() == [0.5, 1.5, 0.5, 0.5]
    labels = compute_labels(example, given, days).sort_by(by)
    assert labels["customer_id"].to_pylist() == ["early", "early", "early", "late"]
    assert labels["label"].to_pylist() == [False, False, True, True]


def test_the_example_of_a_folder_that_builds_on_another_loads(tmp_path: Path):
    (tmp_path / "spend").mkdir()
    (tmp_path / "churn").symlink_to(PROJECT_ROOT / "include" / "use_cases" / "churn")
    (tmp_path / "spend" / "use_case.yaml").write_text(_blocks(DOCS / "use_case.md", "yaml")[1])
    (tmp_path / "spend" / "labels.sql").write_text("SELECT 1")
    spend = load_use_case_file(tmp_path / "spend" / "use_case.yaml")
    assert (spend.base, spend.target.kind) == ("churn", "number")


# --- functions and rooms -------------------------------------------------------------------------


def _is_callable(name: str) -> bool:
    """Import as much of a dotted name as is a module, and look up the rest."""
    try:
        return callable(pkgutil.resolve_name(f"evergreen.{name}"))
    except (ImportError, AttributeError):
        return False


def test_every_function_on_the_way_of_one_row_exists():
    page = (DOCS / "one_row.md").read_text()
    rooms = "|".join(path.name for path in PACKAGE.iterdir() if path.is_dir())
    named = set(re.findall(rf"`((?:{rooms})\.[\w.]+)`", page)) - {"features.sql"}
    assert len(named) > 50
    assert not _is_callable("lake.publishing.lose")
    assert {name for name in named if not _is_callable(name)} == set()


def test_every_station_tells_what_may_go_wrong():
    page = (DOCS / "one_row.md").read_text()
    stations = re.split(r"^## \d+\. ", page, flags=re.MULTILINE)[1:]
    assert len(stations) > 12
    assert [s.splitlines()[0] for s in stations[:-1] if "\n- " not in s] == []


def test_errors_on_the_way_of_one_row_exist():
    from evergreen import errors

    named = set(re.findall(r"`(\w+Error)`", (DOCS / "one_row.md").read_text()))
    assert {name for name in named if not hasattr(errors, name)} == set()


def test_the_glossary_is_alphabetical_and_its_rooms_exist():
    rows = re.findall(r"^\| ([\w -]+) \| .+ \| (.+) \|$", (DOCS / "glossary.md").read_text(), re.M)
    words = [word for word, _ in rows if word != "word"]
    assert len(words) > 50
    assert words == sorted(words)
    for _, where in rows[1:]:
        places = re.findall(r"`([\w./]+)`", where)
        root = PROJECT_ROOT if where.startswith("outside: ") else PACKAGE
        assert places
        assert [place for place in places if not (root / place).exists()] == []


# --- the pages themselves ------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_between_the_pages_lead_somewhere():
    followed = 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            followed += 1
            path, _, anchor = target.partition("#")
            linked = (page.parent / path) if path else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in _anchors(linked), f"{page.name}: {target}"
    assert followed > 20


def test_the_scoreboard_has_the_rows_of_the_code_and_they_lead_somewhere():
    from benchmarks.scoreboard.rows import PAINS

    verdicts, evidence = (DOCS / "scoreboard.md").read_text().split("## What was read back")
    rows = r"^\| (\d+) \| ([^|]+) \|"
    named = [(str(pain.number), pain.name) for pain in PAINS]
    assert [number for number, _ in named] == [str(number) for number in range(1, 24)]
    assert re.findall(rows, verdicts, re.MULTILINE) == named
    passing = [(str(pain.number), pain.passes) for pain in PAINS]
    assert re.findall(rows, evidence, re.MULTILINE) == passing
    paths = [pain.more for pain in PAINS if not pain.more.startswith("`make ")]
    assert [path for path in paths if not (PROJECT_ROOT / path).is_file()] == []


@pytest.mark.parametrize("adr", ADRS, ids=lambda path: path.stem)
def test_a_decision_record_is_complete_and_short(adr: Path):
    text = adr.read_text()
    assert re.match(rf"# {adr.stem[:4]}: \S", text)
    assert re.search(r"^Status: (proposed|accepted|superseded by \d{4})$", text, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= 60


def test_decision_records_are_numbered_and_listed():
    assert [path.stem[:4] for path in ADRS] == [f"{n:04}" for n in range(1, len(ADRS) + 1)]
    assert len(ADRS) >= 7
    listed = (ADRS[0].parent / "README.md").read_text()
    for path in ADRS:
        assert f"]({path.name})" in listed


def test_every_use_case_has_a_readme():
    folders = [path.parent for path in PROJECT_ROOT.glob("include/use_cases/*/use_case.yaml")]
    assert folders
    for folder in folders:
        text = (folder / "README.md").read_text()
        assert text.startswith(f"# {folder.name}\n")


def test_the_changelog_has_the_version_and_its_impact():
    import tomllib

    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    text = (PROJECT_ROOT / "CHANGELOG.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert sections[0].startswith("[Unreleased]")
    assert sections[1].startswith(f"[{project['version']}]")
    for section in sections[1:]:
        assert "### Model/data impact" in section


def test_the_tables_page_has_every_column_of_the_fixed_tables():
    from evergreen.contract import Experiment, load_use_case
    from evergreen.decisions.alerts import ALERTS
    from evergreen.decisions.stored import DECISIONS
    from evergreen.experiments.effect import EFFECTS
    from evergreen.features.compute.result import labels_task
    from evergreen.monitoring.drift import DRIFT
    from evergreen.monitoring.estimate import ESTIMATES
    from evergreen.monitoring.freshness import FRESHNESS
    from evergreen.monitoring.performance import PERFORMANCE
    from evergreen.monitoring.skew import SKEW
    from evergreen.provenance.receipts import _RECEIPTS
    from evergreen.provenance.staleness import STALENESS
    from evergreen.quality.schemas import quarantine_schema
    from evergreen.release.ledger_table import LEDGER
    from evergreen.scoring.score import predictions_schema

    experiment = Experiment(name="mail", starts=date(2026, 1, 1), smallest_effect=0.1)
    churn = load_use_case("churn").model_copy(update={"experiment": experiment})
    interval = load_use_case("spend").target.model_copy(update={"interval": 0.9})
    expected = {
        "quarantine": set(quarantine_schema().names),
        "predictions": {*predictions_schema(churn).names, *interval.score_columns}
        - {churn.entity.key},
        "effects": set(EFFECTS.names),
        "drift": set(DRIFT.names),
        "performance": set(PERFORMANCE.names),
        "estimates": set(ESTIMATES.names),
        "freshness": set(FRESHNESS.names),
        "staleness": set(STALENESS.names),
        "served": {"day", "as_of"},
        "pushed": {"day", "as_of"},
        "skew": set(SKEW.names),
        "labels": set(labels_task(churn).schema.names) - {churn.entity.key},
        "decisions": set(DECISIONS.names),
        "alerts": set(ALERTS.names),
        "receipts": set(_RECEIPTS.columns.keys()),
        "release_ledger": set(LEDGER.columns.keys()),
    }
    text = (DOCS / "tables.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for table, columns in expected.items():
        rows = re.findall(r"^\| (`[^|]+) \|", sections[table], re.MULTILINE)
        named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
        assert columns == {name for name in named if name != "entity.key"}, table
