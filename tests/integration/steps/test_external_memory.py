"""A training beyond its budget of memory, through the steps, and made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from evergreen import steps
from evergreen.contract import load_use_case
from evergreen.errors import PermanentError
from evergreen.provenance.replay import replay
from evergreen.settings import Settings
from evergreen.training import frame
from evergreen.training.fit import Fitter
from evergreen.training.tracking import describe_run, describe_version
from tiny_shop import DAYS, NAME, compute, label, open_shop

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_a_run_keeps_to_where_its_rows_are_and_so_does_its_replay(
    home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_shop(tmp_path, monkeypatch)
    label(compute())
    request = steps.accept_request(NAME, str(DAYS[-1]), "by hand")
    with monkeypatch.context() as patched:
        patched.setenv("EVERGREEN_TRAINING_MB", "0")
        staged = steps.assemble_training_set(request)

    def in_memory(*_: object) -> None:
        raise AssertionError("the rows were to stay on disk")

    with monkeypatch.context() as patched:
        patched.setattr(frame, "label_rows", in_memory)
        patched.setattr("evergreen.training.external.label_rows", in_memory)
        chosen = steps.choose_recipe(staged)
        before = sorted(path.name for path in Path(chosen["folder"]).iterdir())
        with patched.context() as broken, pytest.raises(PermanentError, match="on purpose"):
            broken.setattr(Fitter, "fit", _fail)
            steps.train_challenger(chosen)
        trained = steps.train_challenger(chosen)
        assert sorted(path.name for path in Path(chosen["folder"]).iterdir()) == before
        version = f"{NAME}/{trained['version']}"
        assert replay(version).equal
    run_id = describe_version(load_use_case(NAME), trained["version"]).run_id
    assert describe_run(run_id).parameters["external_memory"] == "True"
    # Fitted in memory they are the same, so the version is there already.
    again = steps.choose_recipe(steps.assemble_training_set(request))
    assert again["facts"]["choice"] == chosen["facts"]["choice"]
    assert steps.train_challenger(again)["version"] == trained["version"]


def _fail(*_: object) -> None:
    raise PermanentError("on purpose")
