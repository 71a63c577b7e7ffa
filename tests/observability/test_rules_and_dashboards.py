"""Rules fire and keep silent, dashboards ask what there is, and both name metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen.ops.metrics import METRICS
from evergreen.settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "observability"
TESTS = sorted((FOLDER / "rules").glob("*.test.yml"))
RULES = sorted({*(FOLDER / "rules").glob("*.yml")} - {*TESTS})
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
CONFIG = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
# What Prometheus itself records.
OF_PROMETHEUS = {"up", "ALERTS", "scrape_duration_seconds"}


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool on the PATH; Debian has it: apt-get install prometheus")
    return found


def run(*command: Any) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]


def expressions() -> dict[str, str]:
    asked = {rule["alert"]: rule["expr"] for rule in rules()}
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                asked[f"{path.stem}_{panel['id']}_{target['refId']}"] = target["expr"]
        for variable in board["templating"]["list"]:
            (values,) = re.findall(r"label_values\((.+), \w+\)", variable["definition"])
            asked[f"{path.stem}_{variable['name']}"] = values
    return asked


def of_airflow() -> set[str]:
    """Return the names that the configuration makes of Airflow's."""
    made: set[str] = set()
    for relabeling in CONFIG["scrape_configs"][1]["metric_relabel_configs"]:
        if relabeling.get("target_label") == "__name__":
            choices = re.findall(r"\((\w+(?:\|\w+)+)\)", relabeling["regex"])
            made |= {
                relabeling["replacement"].replace("${1}", choice)
                for choice in (choices[0].split("|") if choices else [""])
            }
    return made


def names_in(expression: str) -> Iterator[str]:
    """Yield the metrics that an expression names: words that are no label, function or keyword."""
    bare = re.sub(r'"[^"]*"|\{[^{}]*\}|\[\w+\]|\b(?:by|on|group_left)\s*\([^)]*\)', " ", expression)
    for word, called in re.findall(r"\b([A-Za-z_]\w*)\b(\s*\()?", bare):
        if not called and word not in ("and", "or", "unless", "on", "by", "offset", "group_left"):
            yield word


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_fire_and_keep_silent(promtool: str, path: Path) -> None:
    run(promtool, "test", "rules", path)


def test_every_rule_is_fired_and_kept_silent_by_a_test() -> None:
    told: dict[str, set[bool]] = {rule["alert"]: set() for rule in rules()}
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            (asked,) = test["promql_expr_test"]
            (alert,) = re.findall(r'alertname="(\w+)"', asked["expr"])
            told[alert].add(bool(asked["exp_samples"]))
    assert len(told) > 20
    assert {alert for alert, seen in told.items() if seen != {True, False}} == set()


def test_every_rule_says_what_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "help"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]


def test_configuration_and_rules_are_whole(promtool: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "observability")
    (tmp_path / "observability" / "airflow.token").write_text("token")
    run(promtool, "check", "config", tmp_path / "observability" / "prometheus.yml")


def test_every_expression_of_a_dashboard_can_be_read(promtool: str, tmp_path: Path) -> None:
    asked = [
        {"record": f"asked:{name.replace('-', '_')}", "expr": text.replace("$", "")}
        for name, text in expressions().items()
    ]
    assert len(asked) > 50
    path = tmp_path / "asked.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]}))
    run(promtool, "check", "rules", path)


def test_every_metric_that_is_named_is_exposed() -> None:
    assert {*names_in('rate(a_b{c="d"}[5m]) > on (e) group_left f and sum by (g) (h)')} == {
        *("a_b", "f", "h")
    }
    exposed = {*METRICS, *of_airflow(), *OF_PROMETHEUS}
    unknown = {
        name: strange
        for name, text in expressions().items()
        if (strange := {*names_in(text)} - exposed)
    }
    assert unknown == {}


def test_what_airflow_says_is_kept_only_where_it_is_asked_for() -> None:
    asked = {name for text in expressions().values() for name in names_in(text)}
    assert of_airflow() - asked == set()


def test_dashboards_use_the_one_data_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load(
        (FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )
    (source,) = provisioned["datasources"]
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    used = [panel["datasource"] for panel in panels()]
    used += [target["datasource"] for panel in panels() for target in panel["targets"]]
    used += [v["datasource"] for board in boards for v in board["templating"]["list"]]
    assert {(one["type"], one["uid"]) for one in used} == {(source["type"], source["uid"])}
    assert len({board["uid"] for board in boards}) == len(boards) == 2


def test_panels_of_a_dashboard_have_a_place_of_their_own() -> None:
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        found = json.loads(path.read_text())["panels"]
        assert len({panel["id"] for panel in found}) == len(found)
        for panel in found:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, (path.stem, panel["title"])
            assert at["x"] + at["w"] <= 24
            taken |= cells
