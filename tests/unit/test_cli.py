from pathlib import Path

import pytest

from evergreen.cli import main, run_command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["evergreen", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_check_validates_every_use_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERGREEN_ONLINE_RETAIL", "/data")
    assert run(monkeypatch, "check") == 0
    assert capsys.readouterr().out == "".join(
        f"{name}: no problems\n" for name in ("churn", "coffee", "online_retail", "spend")
    )


def test_errors_are_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", "chrun") == 1
    error = capsys.readouterr().err
    assert error.startswith("chrun: 1 problem\n  - There is no use case 'chrun'")
    assert "Traceback" not in error


def test_unknown_commands_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "dance") == 2


def test_status_without_services_says_how_to_start_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "status") == 0
    out = capsys.readouterr().out
    assert "Airflow         not running" in out
    assert "make up" in out


def test_status_survives_a_database_that_was_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url = f"postgresql+psycopg2://postgres@/catalog?host={tmp_path}"
    monkeypatch.setenv("EVERGREEN_CATALOG_URL", url)
    assert run(monkeypatch, "status") == 0
    assert "Is the server running" in capsys.readouterr().out


def test_the_demo_refuses_a_directory_with_other_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = tmp_path / "home" / "warehouse" / "shop" / "orders"
    table.mkdir(parents=True)
    from demo.run import demo

    monkeypatch.setattr("sys.argv", ["run.py"])
    with pytest.raises(SystemExit, match="1"):
        run_command(demo)
    assert "holds data that no demo made (shop)" in capsys.readouterr().err
    assert table.is_dir()
