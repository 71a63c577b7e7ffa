"""The report of a night through the real tables: written, kept, and written again."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.errors import NotReadyError, ServiceDownError
from evergreen.monitoring.report import gather_night
from evergreen.settings import Settings
from registry import client
from tiny_shop import DAYS, NAME, compute, label, night, open_shop, score, train

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

# The horizon is two days, so the last night knows how the day before the first ended.
EARLY, FIRST, LAST = DAYS[-3:]


def report(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", NAME, *arguments])


def kept(version: int) -> dict[str, str]:
    """The reports that MLflow has with a version."""
    run_id = client().get_model_version(NAME, str(version)).run_id
    found = client().list_artifacts(run_id, "nights")
    return {
        one.path: Path(client().download_artifacts(run_id, one.path)).read_text() for one in found
    }


def test_nights_are_told_with_what_is_there(
    home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_shop(tmp_path, monkeypatch)
    with pytest.raises(NotReadyError, match="No night of shop is on record"):
        raise report().exception
    label(compute())

    # Nobody is in charge yet: there is nothing to keep a report with.
    night(EARLY)
    told = steps.report_night(NAME, str(EARLY))
    page = Path(told["file"])
    assert page == home.night_report(NAME, EARLY)
    assert "Wait: there is no champion yet" in page.read_text()
    assert "No labels have matured" in page.read_text()
    assert page.read_text().count("Not measured.") == 1

    # The newest day is trained for, and older ones are scored with it.
    judged = train()
    steps.release_version(NAME, "promote", str(judged["version"]), "a test", "ann")
    for day in DAYS[-5:]:
        score(day)
    for day in (FIRST, LAST):
        night(day)
        steps.measure_staleness(NAME, str(day))
        steps.report_night(NAME, str(day))
    first, last = (home.night_report(NAME, day).read_text() for day in (FIRST, LAST))
    assert "no champion" not in first
    assert "version 1, trained on" in last
    assert "The last 3 nights" in last
    assert f"Of {DAYS[-3]}, the newest scored day" in last
    # Two features and the score by night and by value, all columns together and labels by night,
    # columns by night, performance by day.
    assert last.count("<svg ") == 2 * 3 + 2 + 2
    assert last.index("<h3>score") > 0
    assert kept(1) == {f"nights/{FIRST}.html": first, f"nights/{LAST}.html": last}
    # What a later night knows is not told of an earlier one.
    assert f"Of {DAYS[-4]}, the newest scored day" in first

    # Written again, it is the same; the newest is found by itself.
    steps.report_night(NAME, str(LAST))
    assert home.night_report(NAME, LAST).read_text() == last
    home.night_report(NAME, LAST).unlink()
    assert report().output == f"{home.night_report(NAME, LAST)}\n"
    assert home.night_report(NAME, LAST).read_text() == last
    assert [path.name for path in home.reports.rglob(".*")] == []
    with pytest.raises(NotReadyError, match=f"shop_monitor {DAYS[0]} {DAYS[0]} --reprocess"):
        raise report(str(DAYS[0])).exception

    # Without MLflow the night is told, and the task says that it is not done.
    with monkeypatch.context() as patch:
        url = "postgresql+psycopg2://ada:hunter2@127.0.0.1:1/mlflow"
        patch.setenv("EVERGREEN_MLFLOW_URL", url)
        with pytest.raises(ServiceDownError):
            steps.report_night(NAME, str(LAST))
    without = home.night_report(NAME, LAST).read_text()
    assert "Distributions cannot be shown: " in without
    assert "hunter2" not in without
    assert without.count("<svg ") == 3 + 2 + 2

    # Tables that are gone, or have never been, are left out.
    for table in ("performance", "staleness", "decisions"):
        lake.catalog().drop_table((NAME, table))
    assert gather_night(load_use_case(NAME), LAST).evidence is None
    steps.report_night(NAME, str(LAST))
    least = home.night_report(NAME, LAST).read_text()
    assert "Nothing was decided on this night" in least
    assert "No labels have matured" in least
    assert least.count("<svg ") == 2 * 3 + 1 + 2
