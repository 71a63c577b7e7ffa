"""Who may import what, read from the syntax trees; see docs/adr/0004-steps-seam.md."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evergreen.settings import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "include" / "evergreen"
DAGS = PROJECT_ROOT / "dags"
FEATURE_REPO = PROJECT_ROOT / "feature_repo"

# Parsed or imported by everything, so nothing at their top may cost time.
LIGHT = (
    "contract/",
    "targets/",
    "steps/",
    "provenance/__init__.py",
    "provenance/commands.py",
    "provenance/staging.py",
    "sql/__init__.py",
    "sql/shards.py",
    "sql/text.py",
    "disk.py",
    "settings.py",
    "errors.py",
)
LIGHT_LIBRARIES = {"pydantic", "yaml"}
# Libraries that one room owns; a trailing slash means the room's whole folder.
OWNERS = {
    "feast": ("features/",),
    "ibis": ("features/",),
    "mlflow": ("training/tracking/",),
    "great_expectations": ("quality/",),
    "pyiceberg": ("lake/",),
    "apprise": ("monitoring/destinations.py",),
    "airflow": (),
    # What nobody can know of real orders; the demo and the tests may ask.
    "evergreen.sources.bounds": (),
    "evergreen.ops": ("ops/", "cli.py", "lake/sealed.py", "steps/maintenance.py"),
    "evergreen.ops.local": ("ops/", "cli.py"),
    "evergreen.steps": ("steps/",),
}
# Each reads the clock for a reason; everything else gets its day handed in.
CLOCK_READERS = {
    "steps/maintenance.py": "ages of snapshots, files and staging folders",
    "ops/backup/make.py": "says when a backup was made, and names it after that",
    "ops/local/airflow.py": "tells this start's heartbeats from an earlier one's",
    "ops/local/home.py": "says since when a command is at work",
    "serving/access.py": "tokens expire",
    "serving/app.py": "says how old the features of an answer are",
}
CLOCKS = re.compile(
    r"(^|\.)(datetime\.(now|utcnow|today)|date\.today|time\.time(_ns)?|Timestamp\.now)$"
)


@dataclass(frozen=True)
class _Import:
    """One imported module; `at_top` if importing the file imports it."""

    module: str
    at_top: bool
    line: int


def _imports(path: Path) -> list[_Import]:
    def walk(node: ast.AST, *, top: bool) -> Iterator[_Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield _Import(alias.name, top, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: a relative import"
                for alias in child.names:
                    yield _Import(f"{child.module}.{alias.name}", top, child.lineno)
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, top=top and not typing_only and not deferred)

    return list(walk(ast.parse(path.read_text()), top=True))


def _within(module: str, roots: tuple[str, ...] | set[str]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _modules() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def _belongs(module: str, places: tuple[str, ...]) -> bool:
    return any(module.startswith(p) if p.endswith("/") else module == p for p in places)


def _is_third_party(module: str) -> bool:
    root = module.split(".")[0]
    return root not in sys.stdlib_module_names and root not in ("evergreen", "__future__")


def test_there_is_something_to_look_at():
    assert {"steps/ingest.py", "lake/publishing.py", "contract/use_case.py"} <= set(_modules())
    assert len(list(DAGS.glob("*.py"))) >= 8


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.stem)
def test_a_dag_file_is_a_table_of_contents(path: Path):
    allowed = (
        "airflow",
        "conventions",
        "deadlines",
        "links",
        "patience",
        "shards",
        "evergreen.steps",
        "evergreen.contract",
        # The deadline that Airflow knows by the plugin.
        "evergreen_plugin.DayDue",
    )
    foreign = [
        found
        for found in _imports(path)
        if not _within(found.module, allowed)
        and found.module.split(".")[0] not in sys.stdlib_module_names
    ]
    assert foreign == []
    assert len(path.read_text().splitlines()) <= 90


def test_the_feature_repository_knows_feast_and_the_contract_only():
    allowed = ("feast", "evergreen.features.store.definitions", "evergreen.contract")
    files = list(FEATURE_REPO.rglob("*.py"))
    assert files
    assert [f for path in files for f in _imports(path) if not _within(f.module, allowed)] == []


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_room_only(library: str):
    users = {
        module
        for module in _modules()
        if any(_within(found.module, (library,)) for found in _imports(PACKAGE / module))
    }
    assert {user for user in users if not _belongs(user, OWNERS[library])} == set()
    assert users or not OWNERS[library]


@pytest.mark.parametrize("module", [m for m in _modules() if _belongs(m, LIGHT)])
def test_what_everything_imports_is_light(module: str):
    light = {f"evergreen.{n.rstrip('/').removesuffix('.py').replace('/', '.')}" for n in LIGHT}
    heavy = [
        found
        for found in _imports(PACKAGE / module)
        if found.at_top
        and (
            (_is_third_party(found.module) and not _within(found.module, LIGHT_LIBRARIES))
            or (found.module.startswith("evergreen") and not _within(found.module, light))
        )
    ]
    assert heavy == []


def test_parsing_imports_stay_light_when_they_are_run():
    """The same from the other end: what is in memory after importing what a DAG imports."""
    import subprocess

    heavy = ("pandas", "numpy", "pyarrow", "duckdb", "feast", "mlflow", "xgboost", "sqlalchemy")
    script = "import sys, evergreen.steps, evergreen.contract; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "evergreen.steps.ingest" in loaded
    assert [name for name in heavy if name in loaded] == []


def test_no_module_is_a_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    everything = [*PACKAGE.rglob("*"), *DAGS.rglob("*"), *FEATURE_REPO.rglob("*")]
    assert [path for path in everything if path.stem in drawers] == []


def test_what_is_particular_to_a_kind_of_target_is_in_its_file():
    from evergreen.targets import KINDS, TargetModel

    kinds = TargetModel.__subclasses__()
    assert len(kinds) == len(KINDS)
    particular = [name for kind in kinds for name in (*kind.metrics, kind.__name__)]
    names = re.compile(rf"\b({'|'.join(particular)})\b", re.IGNORECASE)
    assert names.search((PACKAGE / "targets" / "number.py").read_text())
    elsewhere = [module for module in _modules() if not module.startswith("targets/")]
    telling = {
        f"{module}: {found[0]}"
        for module in elsewhere
        for found in names.finditer((PACKAGE / module).read_text())
    }
    assert telling == set()


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_one_module_opens_duckdb():
    """A module's functions run on a connection without limits, too: `duckdb.sql(...)`."""
    used = {
        (name, module)
        for module in _modules()
        for name, _ in _calls(PACKAGE / module)
        if re.match(r"(\w+\.)*duckdb\.[a-z_]+$", name)
    }
    assert used == {
        ("duckdb.connect", "sql/connection.py"),
        # Reads a text and runs nothing.
        ("duckdb.tokenize", "sql/syntax.py"),
        ("ibis.duckdb.from_connection", "features/store/offline_store.py"),
    }
    imported = [found.module for m in _modules() for found in _imports(PACKAGE / m)]
    assert [module for module in imported if re.match(r"duckdb\.[a-z]", module)] == []


def test_only_named_modules_read_the_clock():
    readers = {
        module
        for module in _modules()
        if any(CLOCKS.search(name) for name, _ in _calls(PACKAGE / module))
    }
    assert readers == set(CLOCK_READERS)


def test_dags_do_not_read_the_clock():
    names = [name for path in DAGS.glob("*.py") for name, _ in _calls(path)]
    assert len(names) > 50
    assert [name for name in names if CLOCKS.search(name)] == []


def test_nothing_prints_and_nothing_pickles():
    files = [*PACKAGE.rglob("*.py"), *DAGS.glob("*.py"), *FEATURE_REPO.rglob("*.py")]
    printing = [f"{p}:{c.lineno}" for p in files for name, c in _calls(p) if name == "print"]
    assert printing == []
    picklers = ("pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal")
    pickling = [f"{p}:{f.line}" for p in files for f in _imports(p) if _within(f.module, picklers)]
    assert pickling == []
