"""The `evergreen` command: services of one machine, the demo, and a look at the state of things."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from sqlalchemy.exc import OperationalError

from evergreen.errors import ConfigError, EvergreenError
from evergreen.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Batch machine learning that stays right."""


@cli.command()
@click.option("--port", type=int, help="Port of Airflow's UI; by default 8080 or the next free.")
def up(port: int | None) -> None:
    """Start the embedded Postgres and Airflow (loopback only), and say how to log in."""
    from evergreen.deploy import start_services
    from evergreen.use_case import broken_use_cases

    instance = start_services(load_settings(), port=port)
    for name, error in broken_use_cases().items():
        click.echo(f"Left out  {name}: {error}", err=True)
    click.echo(f"Airflow   {instance.url}")
    click.echo(f"Log in    {instance.username} / {instance.password}")
    click.echo(f"Log       {instance.log}")
    click.echo("Stop with `make down`.")


@cli.command()
def down() -> None:
    """Stop Airflow and the embedded Postgres; safe to repeat."""
    from evergreen.deploy import stop_services

    stop_services(load_settings())
    click.echo("Stopped.")


@cli.command()
def init() -> None:
    """Create tables, registries and Feast definitions in the configured databases."""
    from evergreen.deploy import initialise

    for line in initialise(load_settings()):
        click.echo(line)


@cli.command()
@click.argument("use_cases", nargs=-1)
def check(use_cases: Sequence[str]) -> None:
    """Validate use cases (all of them by default) without touching any service."""
    from evergreen.use_case import list_use_cases, load_use_case

    broken = 0
    for name in use_cases or list_use_cases():
        try:
            declared = load_use_case(name)
        except ConfigError as error:
            broken += 1
            click.echo(f"ConfigError: {error}", err=True)
        else:
            click.echo(f"{name}: {len(declared.features.columns)} features, {declared.folder}")
    sys.exit(1 if broken else 0)


@cli.command()
def status() -> None:
    """Show services, tables and champions."""
    from evergreen.report import show_status

    show_status(load_settings())


@cli.command()
@click.argument("target")
def replay(target: str) -> None:
    """Make an output again from what was recorded of it, and compare.

    TARGET is the sequence number of a receipt (4711), a registered version (churn/3) or the id of
    an MLflow run. Ends with code 1 if anything differs.
    """
    from evergreen.replay import replay

    outcome = replay(target)
    click.echo(outcome.subject)
    for item in outcome.compared:
        verdict = "equal" if item.equal else "DIFFERS"
        click.echo(f"  {verdict:8} {item.what}: {item.recorded or 'no rows'}")
        if not item.equal:
            click.echo(f"  {'':8} replayed: {item.replayed or 'no rows'}")
    for note in outcome.notes:
        click.echo(f"  note     {note}")
    sys.exit(0 if outcome.equal else 1)


_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@cli.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def airflow(arguments: Sequence[str]) -> None:
    """Run any `airflow` command on the services of this data directory."""
    from evergreen.deploy import airflow_process_environment

    environment = airflow_process_environment(load_settings())
    sys.exit(subprocess.call(["airflow", *arguments], env=environment))


@cli.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def feast(arguments: Sequence[str]) -> None:
    """Run any `feast` command on the feature repository."""
    module = "evergreen.features.feast_cli"
    sys.exit(subprocess.call([sys.executable, "-m", module, *arguments]))


@cli.command()
@click.option("--port", default=5000, show_default=True, help="Port on loopback.")
def mlflow(port: int) -> None:
    """Show runs, models and plots in MLflow's UI until interrupted."""
    settings = load_settings()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1"]
    command += ["--default-artifact-root", settings.artifacts_url]
    variables = {
        # Not an argument: those are visible to every user of the machine.
        "MLFLOW_BACKEND_STORE_URI": settings.database_url("mlflow"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    folder = Path(sys.executable).parent
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    click.echo(f"MLflow    http://127.0.0.1:{port}  (Ctrl-C ends it)")
    sys.exit(subprocess.call(command, env={**os.environ, **variables, "PATH": path}))


@cli.command()
@click.option("--days", type=click.IntRange(min=14), default=14, help="Days to backfill.")
def demo(days: int) -> None:
    """Run the whole chain under a real Airflow, and end with a summary."""
    from evergreen.demo import run_demo

    run_demo(load_settings(), days=days)


@cli.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def backup(directory: Path | None) -> None:
    """Save databases, warehouse and artifacts in a new DIRECTORY; runs may go on meanwhile.

    By default in EVERGREEN_BACKUPS, named after this instant.
    """
    from evergreen.backup.make import back_up, new_directory

    settings = load_settings()
    report = back_up(directory or new_directory(settings), settings)
    click.echo(f"{report.tables} tables with {report.rows:,} rows, {report.files} files")
    click.echo(f"{report.bytes / 1e6:,.1f} MB, of them {report.new_bytes / 1e6:,.1f} MB new")
    for sentence in report.left_out:
        click.echo(f"Not saved: {sentence}")
    click.echo(f"Restore with `evergreen restore {report.directory}`.")


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the data that are there.")
def restore(directory: Path, force: bool) -> None:
    """Put the backup in DIRECTORY back; Airflow must be stopped. Safe to repeat."""
    from evergreen.backup.restore import restore as put_back

    report = put_back(directory, force=force, settings=load_settings())
    click.echo(f"Restored the state of {report.made_at}:")
    click.echo(f"{report.tables} tables with {report.rows:,} rows, {report.files} files")
    click.echo("Start with `make up`.")


def main() -> None:
    """Run the command; errors of ours are shown as sentences, not tracebacks."""
    try:
        cli(standalone_mode=False)
    except EvergreenError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)
    except OperationalError as error:
        click.echo(f"A database does not answer: {error.orig}".strip(), err=True)
        click.echo("Start the embedded one with `make up`, or check EVERGREEN_*_URL.", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
