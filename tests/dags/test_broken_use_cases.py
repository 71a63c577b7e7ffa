"""A use case that cannot be loaded is seen, and disturbs no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evergreen.contract import load_all
from evergreen.settings import PROJECT_ROOT
from small_shop import write_small_shop

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

FILES = sorted(
    path
    for path in (PROJECT_ROOT / "dags").glob("*.py")
    if path.stem
    not in (
        *("conventions", "links", "patience", "deadlines", "shards"),
        "broken_use_cases",
    )
)


def change(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / "use_case.yaml").read_text()
        assert old in text
        (folder / "use_case.yaml").write_text(text.replace(old, new, 1))

    return spoil


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown_key": (change("horizon_days:", "horizon:"), "target.horizon: unknown key"),
    "no_such_date": (change("first_day: 2025-01-01", "first_day: 2025-02-30"), "out of range"),
    "end_of_time": (change("last_day: 2025-06-30", "last_day: 9999-12-31"), "last_day: found"),
    "begin_of_time": (change("first_day: 2025-01-01", "first_day: 0001-01-01"), "first_day: found"),
    "not_yaml": (lambda f: (f / "use_case.yaml").write_text("name: ["), "not valid YAML"),
    "nested": (lambda f: (f / "use_case.yaml").write_text("[" * 5000), "not valid YAML"),
    "not_text": (lambda f: (f / "use_case.yaml").write_bytes(b"\xff\xfe\xff"), "not valid YAML"),
    "a_folder": (
        lambda f: ((f / "use_case.yaml").unlink(), (f / "use_case.yaml").mkdir()),
        "does not exist",
    ),
    "no_sql": (lambda f: (f / "features.sql").unlink(), "features.sql does not exist"),
    "binary_sql": (lambda f: (f / "labels.sql").write_bytes(b"\xff"), "labels.sql cannot be read"),
    "other_name": (change("name: other_name", "name: another"), "found 'another'"),
    "float_key": (
        change(
            "source: customer_id\n        dtype: string",
            "source: customer_id\n        dtype: float64",
        ),
        "events.orders.columns.customer_id.dtype: found 'float64'",
    ),
}


@pytest.fixture
def use_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three whole folders, one on the features of another, and each kind of broken ones."""
    root = tmp_path / "use_cases"
    for name in ("alpha", "zeta", *BROKEN):
        write_small_shop(root, name=name)
    shutil.copytree(PROJECT_ROOT / "include" / "use_cases" / "spend", root / "beside")
    change("name: spend", "name: beside")(root / "beside")
    change("of: churn", "of: zeta")(root / "beside")
    for name, (spoil, _) in BROKEN.items():
        spoil(root / name)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(root))
    return root


def test_the_whole_ones_are_loaded_and_the_others_say_why_not(use_cases: Path) -> None:
    whole, broken = load_all()
    assert [use_case.name for use_case in whole] == ["alpha", "beside", "zeta"]
    assert set(broken) == set(BROKEN)
    for name, (_, expected) in BROKEN.items():
        assert expected in str(broken[name]), name
        assert str(use_cases / name) in str(broken[name])


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_file_keeps_the_dags_of_the_whole_ones(
    use_cases: Path, dag_bag: DagBag, file: Path
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(file)
    assert bag.import_errors == {}
    stage = file.stem
    of = {"labels": ["beside"], "ingest": ["alpha", "zeta"], "features": ["alpha", "zeta"]}
    names = of.get(stage, ["alpha", "beside", "zeta"])
    expected = ["maintenance"] if stage == "maintenance" else [f"{name}_{stage}" for name in names]
    assert sorted(bag.dags) == expected


def test_one_file_fails_to_import_and_names_folder_file_and_key(
    use_cases: Path, dag_bag: DagBag
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    file = PROJECT_ROOT / "dags" / "broken_use_cases.py"
    bag = DagBag(file)
    assert bag.dags == {}
    (message,) = bag.import_errors.values()
    for name, (_, expected) in BROKEN.items():
        assert str(use_cases / name) in message
        assert expected in message
    for name in BROKEN:
        shutil.rmtree(use_cases / name)
    assert DagBag(file).import_errors == {}
