"""The `evergreen` command: services of one machine, and a look at the state of things."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from sqlalchemy.exc import OperationalError

from evergreen.errors import EvergreenError
from evergreen.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evergreen.ops.local.airflow_client import AirflowClient
    from evergreen.ops.local.runs import Started
    from evergreen.provenance.commands import Reprocess


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Batch machine learning that stays right."""


@cli.command()
@click.option("--port", type=int, help="Port of Airflow's UI; by default 8080 or the next free.")
def up(port: int | None) -> None:
    """Start the embedded Postgres and Airflow (loopback only), and say how to log in."""
    from evergreen.contract import load_all
    from evergreen.ops.deploy import start_services

    begun = time.monotonic()

    def tell(text: str) -> None:
        click.echo(f"{time.monotonic() - begun:5.0f} s  {text}")

    instance = start_services(load_settings(), port, tell)
    for name, error in load_all()[1].items():
        click.echo(f"Left out  {name}: {error}", err=True)
    click.echo(f"Airflow   {instance.url}")
    click.echo(f"Log in    {instance.username} / {instance.password}")
    click.echo(f"Logs      {instance.logs}/*.log")
    click.echo("Stop with `make down`.")


@cli.command()
def down() -> None:
    """Stop Airflow and the embedded Postgres; safe to repeat."""
    from evergreen.ops.deploy import stop_services

    stop_services(load_settings())
    click.echo("Stopped.")


@cli.command()
def init() -> None:
    """Create tables, registries and Feast definitions in the configured databases."""
    from evergreen.ops.deploy import initialise

    for line in initialise(load_settings()):
        click.echo(line)


@cli.command()
@click.argument("use_cases", nargs=-1)
def check(use_cases: Sequence[str]) -> None:
    """Try use cases (all of them by default) on made-up rows, without touching any service.

    Ends with code 1 if anything is wrong with one of them.
    """
    from evergreen.contract import list_use_cases
    from evergreen.ops.check import find_problems

    failed = False
    for name in use_cases or list_use_cases():
        problems = find_problems(name)
        failed = failed or bool(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems) or 'no'} problems"
        click.echo(f"{name}: {count}", err=bool(problems))
        for problem in problems:
            click.echo(f"  - {problem}", err=True)
    sys.exit(1 if failed else 0)


@cli.command()
@click.argument("use_case")
def plan(use_case: str) -> None:
    """Say what the present YAML and SQL of USE_CASE will do to what is there, before it is run."""
    from evergreen.ops.status import show_plan

    show_plan(use_case)


@cli.command()
@click.argument("use_case")
@click.option("--day", metavar="DAY", help="By default the newest whose trainings know all labels.")
@click.option("--seed", type=int, help="By default the use case's.")
def discover(use_case: str, day: str | None, seed: int | None) -> None:
    """Propose features of USE_CASE that it does not declare yet, with the SQL and YAML of each.

    Candidates follow from the declared tables of events and attributes. They are judged on days
    before the holdout that the gate decides by. Nothing is used, and nothing is written, until it
    is pasted.
    """
    from evergreen.discovery.discover import discover_features

    begun = time.monotonic()

    def tell(text: str) -> None:
        click.echo(f"{time.monotonic() - begun:5.0f} s  {text}", err=True)

    click.echo(discover_features(use_case, tell, day, seed), nl=False)


@cli.command()
@click.argument("name")
@click.option(
    "--from",
    "samples",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="A CSV or Parquet file of events; may be repeated for files with the same columns.",
)
@click.option("--zone", help="Zone whose midnights begin the days, such as Europe/Berlin.")
@click.option("--entity", metavar="COLUMN", help="Whom to predict for.")
@click.option("--time", "when", metavar="COLUMN", help="When it happened.")
@click.option("--key", metavar="COLUMN", help="What names a row; `none` if nothing does.")
def new(
    name: str,
    samples: Sequence[Path],
    zone: str | None,
    entity: str | None,
    when: str | None,
    key: str | None,
) -> None:
    """Draft the folder of a use case NAME from samples of its files.

    What it could only guess is marked CHECK in use_case.yaml. Nothing is overwritten.
    """
    from evergreen.ops.new import draft_use_case

    for line in draft_use_case(name, samples, zone=zone, entity=entity, time=when, key=key):
        click.echo(line)


@cli.command()
def status() -> None:
    """Show services, tables and champions."""
    from evergreen.ops.status import show_status

    show_status(load_settings())


@cli.command()
@click.option("--since", metavar="DAY", help="First day, UTC; by default all there is.")
@click.option("--use-case", "only", help="By default all, and what concerns none.")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv")
def audit(since: str | None, only: str | None, form: Literal["csv", "json"]) -> None:
    """Print who did what: started runs, approved, promoted, decided that a day is empty, erased.

    One line each, oldest first, in UTC; what happened by itself has what started it as its actor.
    """
    from evergreen.contract import list_use_cases, load_use_case, parse_day
    from evergreen.ops.audit import list_acts, write_acts
    from evergreen.ops.local.airflow_client import connect

    if only:
        load_use_case(only)
    begin = parse_day(since) if since else None
    acts = list_acts(connect(load_settings()), list_use_cases(), begin, only)
    click.echo(write_acts(acts, form), nl=False)


@cli.command()
def metrics() -> None:
    """Print what is watched of all use cases, in Prometheus' text format."""
    from evergreen.contract import load_all
    from evergreen.ops.metrics import render

    click.echo(render(*load_all(), load_settings()), nl=False)


@cli.command()
def token() -> None:
    """Print a token for Airflow's API, for what asks by itself, such as Prometheus.

    It is of the user in EVERGREEN_SECRET_AIRFLOW, else of one of the embedded Airflow who may only
    read. Airflow takes it for a day, unless its configuration says otherwise.
    """
    from evergreen.ops.local.airflow_client import connect_to_read

    click.echo(connect_to_read(load_settings()).token())


@cli.command()
@click.argument("use_case")
@click.option("--day", help="As of this night; by default the newest that was measured.")
@click.option("--plan", is_flag=True, help="How many entities and days it needs, by past days.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw uplift by decile (SVG).")
def experiment(use_case: str, day: str | None, plan: bool, plot: str | None) -> None:
    """Print what the experiment of USE_CASE has shown so far, or plan it."""
    from evergreen.contract import parse_day
    from evergreen.experiments import report

    wanted = parse_day(day) if day else None
    if plan:
        report.show_plan(use_case, wanted)
    else:
        report.show(use_case, wanted, plot)


@cli.command()
@click.argument("use_case")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=int, default=8090, show_default=True)
def serve(use_case: str, host: str, port: int) -> None:
    """Answer requests for scores by key, from the online store, by the version in charge."""
    from evergreen.serving.run import run

    run(use_case, host, port)


@cli.command("serve-token")
@click.argument("name")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=90, show_default=True)
def serve_token(name: str, days: float) -> None:
    """Print a token by which NAME may ask `evergreen serve` for scores."""
    from evergreen.serving.access import make_token, secret_of

    click.echo(make_token(secret_of(load_settings()), name, days))


@cli.command()
def alert() -> None:
    """Send a test message to everybody whom `EVERGREEN_ALERT_<NAME>` names."""
    import asyncio

    from evergreen.monitoring.destinations import send_to_all
    from evergreen.settings import alert_destinations

    if not (names := ", ".join(alert_destinations())):
        raise click.ClickException("Nobody is named: set EVERGREEN_ALERT_<NAME> to a URL.")
    asyncio.run(send_to_all("A test of Evergreen", "Whoever reads this is told of changes."))
    click.echo(f"Told {names}.")


@cli.command()
@click.argument("use_case")
@click.option(
    "--at",
    "instant",
    metavar="INSTANT",
    help="Who was in charge then, e.g. 2026-03-03T00:00; without an offset in the use case's zone.",
)
def champions(use_case: str, instant: str | None) -> None:
    """Say which versions of USE_CASE were in charge, from when to when, by whom and why.

    Ends with code 1 if the release ledger does not verify.
    """
    from evergreen.ops.champions import show_champion_at, show_champions

    if instant:
        show_champion_at(use_case, instant)
    else:
        show_champions(use_case)


@cli.command()
@click.argument("use_case")
@click.option("--version", type=int, help="By default the champion.")
@click.option(
    "--html", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write a page instead."
)
def card(use_case: str, version: int | None, file: Path | None) -> None:
    """Print the card of a version of USE_CASE, in Markdown.

    It says what it is for, what it was made of, how good it is, what was decided and why, and
    where its limits are.
    """
    from evergreen.ops.champions import find_card

    text = find_card(use_case, version, "html" if file else "md")
    if file is None:
        click.echo(text, nl=False)
    else:
        file.write_text(text, encoding="utf-8")


@cli.command("export-model")
@click.argument("use_case")
@click.argument("version", type=int)
@click.option("--to", "place", required=True, metavar="FOLDER", help="A new folder, or s3://….")
def export_model(use_case: str, version: int, place: str) -> None:
    """Write VERSION of USE_CASE into a folder, with card, evidence and checksums."""
    from evergreen.release.exchange import export_model

    bundle = export_model(use_case, version, place)
    click.echo(f"{bundle.name}: {len(bundle.files)} files in {place}")


@cli.command("import-model")
@click.argument("folder")
@click.option("--day", required=True, metavar="DAY", help="A day that is loaded here.")
def import_model(folder: str, day: str) -> None:
    """Register the version in FOLDER, and let the gate judge it on what is known here on a day.

    Ends with code 1 if it is not in charge then.
    """
    from evergreen.contract import parse_day
    from evergreen.release.exchange import import_model

    found = import_model(folder, parse_day(day))
    click.echo(f"{found.use_case}/{found.version}\n\n{found.summary}")
    sys.exit(0 if found.promoted else 1)


@cli.command()
@click.argument("use_case")
@click.argument("day", required=False)
def report(use_case: str, day: str | None) -> None:
    """Write the report of the night of DAY, by default the newest, and print where it is.

    What was decided and why, what drifted and how, realised performance, freshness: one page that
    loads nothing, from what the tables hold now.
    """
    from evergreen.contract import load_use_case, parse_day
    from evergreen.monitoring.report import newest_night, write_report

    declared = load_use_case(use_case)
    path, _ = write_report(declared, parse_day(day) if day else newest_night(declared))
    click.echo(path)


@cli.command()
@click.argument("target")
def replay(target: str) -> None:
    """Make an output again from what was recorded of it, and compare.

    TARGET is the sequence number of a receipt (4711), a registered version (churn/3) or the id of
    an MLflow run. Ends with code 1 if anything differs, and with code 3 if somebody's rows were
    part of it and were erased since.
    """
    from evergreen.errors import ErasedError
    from evergreen.provenance.replay import replay

    try:
        outcome = replay(target)
    except ErasedError as error:
        click.echo(error)
        sys.exit(3)
    click.echo(outcome.subject)
    for item in outcome.compared:
        verdict = "equal" if item.equal else "DIFFERS"
        click.echo(f"  {verdict:8} {item.what}: {item.recorded or 'no rows'}")
        if not item.equal:
            click.echo(f"  {'':8} replayed: {item.replayed or 'no rows'}")
    for note in outcome.notes:
        click.echo(f"  note     {note}")
    sys.exit(0 if outcome.equal else 1)


@cli.command()
@click.argument("use_case")
@click.argument("entity")
@click.option("--reason", default="", help="Why; kept for good, so it must not name ENTITY.")
@click.option("--by", "actor", help="Who asked for it; by default the user who runs this.")
@click.option("--plan", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(
    use_case: str, entity: str, reason: str, actor: str | None, plan: bool, yes: bool
) -> None:
    """Erase ENTITY, a key, from everything stored of USE_CASE, and prove that it is gone.

    It cannot be undone. Safe to repeat, also after an interruption. Ends with code 1 if something
    of it is left, and says where.
    """
    from evergreen.erasure import run
    from evergreen.ops.erase import asking, tell_outcome, tell_plan

    if not (reason or plan):
        raise click.UsageError("Say why: --reason, such as the number of the request.")
    settings, subject = load_settings(), run.find_subject(use_case, entity)
    for line in tell_plan(subject, use_case):
        click.echo(line)
    if plan:
        return
    if not yes:
        click.confirm("Erase it? This cannot be undone.", abort=True)
    outcome = run.erase(subject, actor or asking(), reason, settings, click.echo)
    for line in tell_outcome(outcome, settings):
        click.echo(line)
    sys.exit(1 if outcome.left else 0)


@cli.command()
@click.argument("use_case")
@click.argument("keys", nargs=-1, required=True)
@click.option("--day", required=True, metavar="DAY", help="A day that was scored (YYYY-MM-DD).")
def explain(use_case: str, keys: Sequence[str], day: str) -> None:
    """Say why KEYS of USE_CASE were scored on a day as they were, whatever their band.

    The reasons are of the version that scored the day, on the features it read.
    """
    from evergreen.contract import load_use_case, parse_day
    from evergreen.scoring.explain import explain

    declared = load_use_case(use_case)
    for row in explain(declared, parse_day(day, use_case), keys).to_pylist():
        told = f"score {row['score']:.4g}, {row['band']}, version {row['model_version']}"
        click.echo(f"{row[declared.entity.key]}: {told}")
        for reason in row["reasons"]:
            click.echo(f"  {reason}")


def _conf(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in given)
    if wrong := [text for text in given if "=" not in text]:
        raise click.BadParameter(f"{wrong[0]!r} is no KEY=VALUE")
    return pairs


def _starts_runs(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of all that start runs."""
    for option in (
        click.option("--no-wait", is_flag=True, help="Start, and do not follow to the end."),
        click.option("--unpause", is_flag=True, help="Unpause the DAG if it is paused."),
        click.option(
            "--conf",
            metavar="KEY=VALUE",
            multiple=True,
            callback=_conf,
            help="A parameter of the DAG; may be repeated.",
        ),
    ):
        command = option(command)
    return command


def _follow(client: AirflowClient, started: Started, *, no_wait: bool) -> None:
    """Follow runs to their end; end with code 1 unless all of them succeed."""
    from evergreen.ops.local.runs import follow

    if started.paused:
        click.echo("The DAG is paused: its runs wait until it is unpaused (--unpause does it).")
    if no_wait or not started.runs:
        return
    if started.paused:
        sys.exit(1)
    runs = follow(client, started.runs, click.echo)
    failed = sum(run.state != "success" for run in runs)
    click.echo(f"{len(runs)} runs, {failed} failed." if failed else "All succeeded.")
    sys.exit(1 if failed else 0)


@cli.command()
@click.argument("dag_id")
@click.option("--day", metavar="DAY", help="The day the run works for (YYYY-MM-DD).")
@click.option("--from", "first", metavar="DAY", help="First day, for a DAG that takes a range.")
@click.option("--to", "last", metavar="DAY", help="Last day (included).")
@_starts_runs
def trigger(
    dag_id: str,
    day: str | None,
    first: str | None,
    last: str | None,
    conf: dict[str, str],
    unpause: bool,
    no_wait: bool,
) -> None:
    """Start one run of DAG_ID, and follow it and what it sets off to the end.

    Ends with code 1 if anything failed.
    """
    from evergreen.ops.local.airflow_client import connect
    from evergreen.ops.local.runs import start_run

    conf |= {name: text for name, text in (("from", first), ("to", last)) if text}
    client = connect(load_settings())
    started = start_run(client, dag_id, day=day, conf=conf, unpause=unpause, tell=click.echo)
    _follow(client, started, no_wait=no_wait)


@cli.command()
@click.argument("target")
@click.argument("first")
@click.argument("last")
@click.option(
    "--reprocess",
    type=click.Choice(["none", "failed", "completed"]),
    default="failed",
    show_default=True,
    help="Days that had a run: skip them, run failed ones again, or run all of them again.",
)
@click.option(
    "--max-active-runs", type=click.IntRange(min=1), help="At a time; by default as the DAG says."
)
@_starts_runs
def backfill(
    target: str,
    first: str,
    last: str,
    reprocess: Reprocess,
    max_active_runs: int | None,
    conf: dict[str, str],
    unpause: bool,
    no_wait: bool,
) -> None:
    """Run the days FIRST to LAST (included) of TARGET, a use case or a DAG, one run each.

    Follows the runs, and those they set off, to the end. Ends with code 1 if anything failed.
    """
    from evergreen.contract import Period
    from evergreen.ops.local.airflow_client import connect
    from evergreen.ops.local.runs import start_backfill

    client = connect(load_settings())
    started = start_backfill(
        client,
        target,
        Period.parse(f"{first}..{last}"),
        reprocess=reprocess,
        max_active_runs=max_active_runs,
        conf=conf,
        unpause=unpause,
        tell=click.echo,
    )
    _follow(client, started, no_wait=no_wait)


_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@cli.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def airflow(arguments: Sequence[str]) -> None:
    """Run any `airflow` command on the services of this data directory."""
    from evergreen.ops.deploy import airflow_process_environment

    environment = airflow_process_environment(load_settings())
    # The environment's PATH begins with ours.
    sys.exit(subprocess.call(["airflow", *arguments], env=environment))  # nosec B607


@cli.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def feast(arguments: Sequence[str]) -> None:
    """Run any `feast` command on the feature repository."""
    module = "evergreen.features.store.feast_cli"
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
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def backup(directory: Path | None) -> None:
    """Save databases, warehouse and artifacts in a new DIRECTORY; runs may go on meanwhile.

    By default in EVERGREEN_BACKUPS, named after this instant.
    """
    from evergreen.ops.backup.make import back_up, new_directory

    settings = load_settings()
    directory = (directory or new_directory(settings)).expanduser().absolute()
    report = back_up(directory, settings)
    click.echo(f"{len(report.tables)} tables with {report.rows:,} rows, {report.files} files")
    click.echo(f"{report.bytes / 1e6:,.1f} MB, of them {report.new_bytes / 1e6:,.1f} MB new")
    for sentence in report.left_out:
        click.echo(f"Not saved: {sentence}")
    click.echo(f"Restore with `evergreen restore {directory}`.")


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the data that are there.")
def restore(directory: Path, force: bool) -> None:
    """Put the backup in DIRECTORY back; Airflow must be stopped. Safe to repeat."""
    from evergreen.ops.backup.restore import restore as put_back

    report = put_back(directory, force=force, settings=load_settings())
    click.echo(f"Restored the state of {report.made_at}:")
    click.echo(f"{len(report.tables)} tables with {report.rows:,} rows, {report.files} files")
    click.echo("Start with `make up`.")


def main() -> None:
    """Run `evergreen`."""
    run_command(cli)


def run_command(command: click.Command) -> None:
    """Run a command; errors of ours are shown as sentences, not tracebacks."""
    try:
        command(standalone_mode=False)
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
