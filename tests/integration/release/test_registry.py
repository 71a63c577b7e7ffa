"""What MLflow shows of ledger and gate, and what becomes of it when somebody changes it by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pytest
from sqlalchemy import Engine, text

from evergreen import lake, steps
from evergreen.contract import UseCase, load_use_case
from evergreen.decisions.stored import DECISIONS, Stored, decision_table
from evergreen.errors import NotReadyError, PermanentError
from evergreen.ops.status import show_status
from evergreen.provenance import receipts
from evergreen.release import ledger
from evergreen.release.ledger_table import LEDGER
from evergreen.release.promote import project, promote
from evergreen.release.registry import find_problems, look_up
from evergreen.settings import load_settings
from evergreen.training import tracking
from registry import aliases, client, register, tags
from small_shop import write_small_shop

DAY = date(2025, 1, 1)
STATES = {1: "former", 2: "champion", 3: "refused", 4: "challenger", 5: "challenger"}


@pytest.fixture
def shop(book: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> UseCase:
    """Two champions, one after the other, a version the gate refused, one it passed, a new one."""
    folder = write_small_shop(tmp_path / "use_cases")
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    lake.catalog().create_tables()
    receipts.create_tables()
    tracking.initialise()
    register("shop", 5)
    use_case = load_use_case("shop")
    judge(use_case, {1: "promote", 2: "promote", 3: "refuse", 4: "promote"})
    for version in (1, 2):
        put_in_charge(use_case, version)
    return use_case


def judge(use_case: UseCase, decisions: dict[int, str]) -> None:
    """What the gate's step leaves behind."""
    rows = [
        decision_table(
            day=DAY,
            use_case=use_case.name,
            kind="gate",
            decision=decision,
            trigger=None,
            version=version,
            reasons=(),
            evidence=Stored(),
            demands={},
            verdict=Stored(),
        ).to_pylist()[0]
        for version, decision in decisions.items()
    ]
    table = pa.Table.from_pylist(rows, schema=DECISIONS)
    lake.publish(use_case.name, "decisions", table, [DAY])
    for version, decision in decisions.items():
        tracking.tag_version(use_case, version, {"decision": decision})


def put_in_charge(use_case: UseCase, version: int, action: ledger.Action = "promote") -> None:
    promote(
        ledger.engine(),
        use_case.name,
        version,
        action=action,
        actor="ann",
        reason="a test",
        set_alias=lambda champion: tracking.set_champion(use_case, champion),
    )


def status(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    show_status(load_settings())
    return " ".join(capsys.readouterr().out.split())


def test_alias_and_tags_follow_ledger_and_gate(shop: UseCase) -> None:
    assert aliases("shop") == {"champion": 2}
    assert tags("shop", "lifecycle") == STATES
    assert tags("shop", "decision")[3] == "refuse"
    put_in_charge(shop, 1, "roll_back")
    assert aliases("shop") == {"champion": 1}
    assert tags("shop", "lifecycle") == STATES | {1: "champion", 2: "former"}
    # The ledger comes first: a person may promote what the gate refused.
    put_in_charge(shop, 3)
    assert tags("shop", "lifecycle") == STATES | {2: "former", 3: "champion"}
    assert steps.repair_registry() == {"shop": []}


def test_what_was_changed_by_hand_is_told_and_put_right(
    shop: UseCase, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "MLflow" not in status(capsys)
    mlflow = client()
    mlflow.set_registered_model_alias("shop", "champion", "3")
    mlflow.set_model_version_tag("shop", "3", "lifecycle", "champion")
    mlflow.set_model_version_tag("shop", "3", "decision", "promote")
    mlflow.set_model_version_tag("shop", "5", "decision", "refuse")
    mlflow.delete_model_version_tag("shop", "2", "lifecycle")
    told = [
        "MLflow's alias `champion` names version 3; by the ledger, entry 2 says 2",
        "MLflow's tag `lifecycle` of version 2 is None; by ledger and gate it is champion",
        "MLflow's tag `decision` of version 3 is promote; by ledger and gate it is refuse",
        "MLflow's tag `lifecycle` of version 3 is champion; by ledger and gate it is refused",
        "MLflow's tag `decision` of version 5 is refuse; by ledger and gate it is None",
    ]
    shown = status(capsys)
    for sentence in told:
        assert f"shop: {sentence}" in shown
    assert "evergreen trigger maintenance" in shown

    assert steps.repair_registry() == {"shop": told}
    assert aliases("shop") == {"champion": 2}
    assert tags("shop", "lifecycle") == STATES
    assert tags("shop", "decision")[5] is None
    assert steps.repair_registry() == {"shop": []}
    assert "MLflow" not in status(capsys)
    assert len(ledger.entries(ledger.engine(), "shop")) == 2


def test_many_who_put_it_right_at_once_do_not_disturb_one_another(shop: UseCase) -> None:
    threads = 6
    barrier = Barrier(threads)

    def repair(_: int) -> None:
        barrier.wait()
        steps.repair_registry()

    for _ in range(3):
        for version in STATES:
            client().delete_model_version_tag("shop", str(version), "lifecycle")
        client().delete_registered_model_alias("shop", "champion")
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(repair, range(threads)))
        assert aliases("shop") == {"champion": 2}
        assert tags("shop", "lifecycle") == STATES


def test_an_alias_that_was_removed_comes_back(shop: UseCase) -> None:
    client().delete_registered_model_alias("shop", "champion")
    (told,) = steps.repair_registry()["shop"]
    assert "names no version" in told
    assert aliases("shop") == {"champion": 2}


def test_an_alias_without_a_release_goes(book: Engine, shop: UseCase) -> None:
    with book.begin() as connection:
        connection.execute(text("DROP TABLE release_ledger"))
        LEDGER.metadata.create_all(connection)
    steps.repair_registry()
    assert aliases("shop") == {}
    assert set(tags("shop", "lifecycle").values()) == {"challenger", "refused"}


def test_a_champion_that_was_deleted_is_told_with_the_command_that_helps(
    shop: UseCase, capsys: pytest.CaptureFixture[str]
) -> None:
    client().delete_model_version("shop", "2")
    client().set_model_version_tag("shop", "3", "lifecycle", "champion")
    told = (
        "Version 2 of shop is not in MLflow any more (deleted by hand?); entry 2 of the release "
        "ledger put it in charge. Roll back to version 1, the last champion that is left: "
        "evergreen trigger shop_release --conf action=roll_back --conf version=1 "
        "--conf reason='version 2 is gone'"
    )
    assert told in status(capsys)
    with pytest.raises(PermanentError) as failed:
        steps.repair_registry()
    assert str(failed.value) == told
    with pytest.raises(NotReadyError) as refused:
        look_up(shop, 2)
    assert str(refused.value) == told
    # Everything else was put right.
    assert tags("shop", "lifecycle")[3] == "refused"

    put_in_charge(shop, 1, "roll_back")
    assert steps.repair_registry() == {"shop": []}
    assert aliases("shop") == {"champion": 1}
    assert find_problems(shop).gone == (told.partition(". ")[0],)
    assert told.partition(". ")[0] in status(capsys)


def test_without_a_former_champion_another_version_or_a_backup_helps(shop: UseCase) -> None:
    client().delete_model_version("shop", "1")
    client().delete_model_version("shop", "2")
    promoted = "--conf action=promote --conf version=5 --conf reason='version 2 is gone'"
    with pytest.raises(PermanentError, match=f"No former champion is left.*{promoted}"):
        steps.repair_registry()
    client().delete_registered_model("shop")
    with pytest.raises(PermanentError, match=r"No version is left.*evergreen restore"):
        steps.repair_registry()


def test_a_ledger_that_was_changed_is_told_and_nothing_follows_it(
    book: Engine, shop: UseCase, capsys: pytest.CaptureFixture[str]
) -> None:
    with book.begin() as connection:
        connection.execute(text("ALTER TABLE release_ledger DISABLE TRIGGER ALL"))
        connection.execute(text("UPDATE release_ledger SET version = 4 WHERE sequence = 2"))
        connection.execute(text("ALTER TABLE release_ledger ENABLE TRIGGER ALL"))
    told = "The release ledger of shop is not as it was written: entry 2: its content"
    shown = status(capsys)
    assert told in shown
    assert "champion: unknown" in shown
    with pytest.raises(PermanentError, match=told):
        steps.repair_registry()
    for act in (
        lambda: put_in_charge(shop, 3),
        lambda: steps.resolve_model("shop", str(DAY)),
        lambda: project(book, "shop", lambda version: tracking.set_champion(shop, version)),
    ):
        with pytest.raises(PermanentError, match=told):
            act()
    assert aliases("shop") == {"champion": 2}


def test_an_mlflow_that_is_down_hides_nothing_else(
    shop: UseCase, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("EVERGREEN_MLFLOW_URL", f"postgresql+psycopg2://postgres@/x?host={tmp_path}")
    shown = status(capsys)
    assert "shop: Its releases cannot be looked at: The database `mlflow`" in shown
    assert "champion: version 2" in shown
