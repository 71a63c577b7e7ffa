"""What the plugin answers of a use case with a champion and nights, as a browser gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from embedded import Build
from evergreen import lake
from evergreen.contract import load_use_case
from evergreen.provenance import receipts
from evergreen.views.calendar import calendar
from evergreen.views.drift import drift, feature_night
from evergreen.views.entity import entity, suggest
from evergreen.views.lineage import lineage
from evergreen.views.overview import overview
from evergreen.views.performance import performance
from evergreen.views.plan import plan_backfill
from evergreen.views.quality import quality, samples
from evergreen.views.releases import releases
from watched_shop import ADDRESS, NAME, NIGHTS, build_watched_shop

Login = Callable[[str | None], Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Starlette's test client, which Airflow's own modules import too, prefers another client.
    pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`"),
]

FIRST, TONIGHT = NIGHTS[0], NIGHTS[-1]
STAGES = ("ingest", "features", "score")
RUN, WAITING = "a_run", "a_waiting_run"


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_watched_shop)


@pytest.fixture
def runs(airflow_tables: Any) -> Iterator[None]:
    """Airflow knows three DAGs of the shop, and two runs of each for the last night."""
    from airflow.models import DagModel, DagRun
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.types import DagRunType
    from sqlalchemy import delete

    with airflow_tables() as session:
        session.merge(DagBundleModel(name="dags"))
        session.flush()
        for stage in STAGES:
            dag_id = f"{NAME}_{stage}"
            session.add(
                DagModel(dag_id=dag_id, bundle_name="dags", max_active_runs=3, is_stale=False)
            )
            for run_id, begun in ((RUN, datetime(2020, 1, 1, tzinfo=UTC)), (WAITING, None)):
                run = DagRun(
                    dag_id=dag_id,
                    run_id=run_id,
                    run_type=DagRunType.MANUAL,
                    state="success" if begun else "queued",
                    start_date=begun,
                )
                run.partition_key = str(TONIGHT)
                session.add(run)
    yield
    with airflow_tables() as session:
        session.execute(delete(DagRun))
        session.execute(delete(DagModel))


def test_pages_get_what_views_say_and_nothing_that_is_personal(
    login: Login, shop: Path, runs: None
) -> None:
    use_case = load_use_case(NAME)
    customer = suggest(use_case)[0]
    wanted = {
        "overview": overview(use_case),
        "calendar": calendar(use_case),
        f"calendar?from={FIRST}&to={FIRST}": calendar(use_case, FIRST, FIRST),
        f"plan?dag_id=shop_ingest&from={FIRST}&to={TONIGHT}": plan_backfill(
            use_case, "shop_ingest", FIRST, TONIGHT, 3
        ),
        "drift": drift(use_case),
        f"drift/{TONIGHT}/last_amount": feature_night(use_case, TONIGHT, "last_amount"),
        "performance": performance(use_case),
        "performance?metric=logloss": performance(use_case, "logloss"),
        "releases": releases(use_case),
        "quality": quality(use_case),
        "quarantine?table=orders&rule=malformed_row": samples(use_case, "orders", "malformed_row"),
        "entities?like=c1": suggest(use_case, "c1"),
        f"entities/{customer}": entity(use_case, customer),
        f"lineage/{TONIGHT}/{customer}": lineage(use_case, TONIGHT, customer),
    }
    viewer = login("viewer")
    for path, view in wanted.items():
        answer = viewer.get(f"/evergreen/api/use-cases/{NAME}/{path}")
        assert answer.status_code == 200, answer.text
        assert answer.json() == TypeAdapter(type(view)).dump_python(view, mode="json"), path
        assert ADDRESS not in answer.text
    assert ADDRESS in str(lake.read(NAME, "quarantine")["raw"].to_pylist())


def test_a_run_is_answered_with_what_it_has_published(login: Login, shop: Path, runs: None) -> None:
    viewer = login("viewer")
    found = {
        stage: viewer.get(f"/evergreen/api/dag-runs/{NAME}_{stage}/{RUN}").json()
        for stage in STAGES
    }
    for stage, steps in {
        "ingest": ["publish_orders", "publish_orders_quarantine"],
        "features": ["publish_features", "publish_labels"],
        "score": ["publish_predictions"],
    }.items():
        assert (found[stage]["use_case"], found[stage]["what"]) == (NAME, str(TONIGHT))
        assert sorted(shown["step"] for shown in found[stage]["receipts"]) == steps
        for shown in found[stage]["receipts"]:
            recorded = receipts.by_sequence(shown["sequence"])
            # Too long a number for a browser.
            assert shown["output_snapshot"] == str(recorded.output_snapshot)


def test_a_run_that_has_not_begun_has_published_nothing(
    login: Login, shop: Path, runs: None
) -> None:
    viewer = login("viewer")
    for stage in STAGES:
        found = viewer.get(f"/evergreen/api/dag-runs/{NAME}_{stage}/{WAITING}").json()
        # What another run for the same day has published is not its own.
        assert (found["what"], found["receipts"]) == (str(TONIGHT), [])
        assert "has not begun" in found["note"]


def test_what_nobody_has_is_told_in_a_sentence(login: Login, shop: Path, runs: None) -> None:
    viewer = login("viewer")
    for path, status, said in (
        ("entities/nobody", 404, "Nothing is known of customer_id 'nobody'"),
        (f"lineage/{TONIGHT}/nobody", 404, "was not scored"),
        (f"drift/{TONIGHT}/nonsense", 404, "was not measured"),
        ("performance?metric=gini", 400, "no metric 'gini'"),
        ("quarantine?table=visits&rule=x", 400, "no table 'visits'"),
        (f"plan?dag_id=shop_train&from={FIRST}&to={TONIGHT}", 404, "no DAG 'shop_train'"),
        (f"plan?dag_id=shop_score&from={FIRST}&to={TONIGHT}", 400, "cannot be backfilled"),
        ("calendar?from=yesterday", 422, "cannot be asked for"),
    ):
        answer = viewer.get(f"/evergreen/api/use-cases/{NAME}/{path}")
        assert answer.status_code == status, answer.text
        assert said in answer.json()["detail"]
