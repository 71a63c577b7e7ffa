"""Models between environments: out with card and evidence, in as a challenger that is judged anew.

What another environment has decided is told and kept, and decides nothing here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from evergreen import lake
from evergreen.contract import Period, load_use_case
from evergreen.disk import scratch
from evergreen.errors import LedgerDamagedError, NotReadyError
from evergreen.provenance import commands
from evergreen.release import ledger
from evergreen.settings import load_settings
from evergreen.training.assemble import assemble, choose_inputs
from evergreen.training.bundle import (
    BUNDLE_FILE,
    FORMAT,
    LEDGER_FILE,
    Bundle,
    Declared,
    opened,
    require_same_declaration,
    seal,
    send,
)
from evergreen.training.challenger import gather_evidence, measure_challenger
from evergreen.training.external import open_assembled, place_of
from evergreen.training.fit import Fitter
from evergreen.training.model import Model
from evergreen.training.record import MEASURED_FILE
from evergreen.training.served import MODEL_FILE
from evergreen.training.split import SplitPlan, plan_training
from evergreen.training.tracking import fetch_run, register_copy
from evergreen.training.verdict import follow, judge


def export_model(name: str, version: int, place: str) -> Bundle:
    """Write a version to a new folder or URL.

    Raises
    ------
    NotReadyError
        There is no such version.
    LedgerDamagedError
        The ledger does not verify, so nobody can say what it says of the version.
    PermanentError
        Something is there, or the version cannot be taken along.
    """
    use_case, book = load_use_case(name), ledger.engine()
    if damage := ledger.verify(book, name):
        raise LedgerDamagedError(ledger.tell_damage(name, damage))
    entries = ledger.entries(book, name)
    with scratch("bundle") as root:
        folder = Path(root)
        found = fetch_run(use_case, version, folder)
        told = [asdict(entry) for entry in entries if entry.version == version]
        (folder / LEDGER_FILE).write_text(json.dumps(told, indent=1, default=str), "utf-8")
        reads = found.pop("reads")
        bundle = Bundle(
            format=FORMAT,
            use_case=name,
            origin={
                "environment": load_settings().environment,
                "version": str(version),
                "ledger_hash": entries[-1].hash if entries else "",
            },
            declared=Declared.of(use_case, reads),
            files=seal(folder),
            **found,
        )
        text = json.dumps(bundle.to_dict(), indent=1, sort_keys=True)
        (folder / BUNDLE_FILE).write_text(text, "utf-8")
        send(folder, place)
    return bundle


@dataclass(frozen=True)
class Imported:
    """What became of a version that was brought here.

    Parameters
    ----------
    version
        Its number here.
    summary
        Decision, reasons and card, for people.
    promoted
        Whether it is in charge now.
    """

    use_case: str
    version: int
    summary: str
    promoted: bool


def import_model(place: str, day: date) -> Imported:
    """Register a version that was trained elsewhere, and let the gate here judge it.

    It is measured on the holdout of `day` by its measured model, as a champion is, beside the
    champion and the baselines of this environment. Safe to repeat.

    Raises
    ------
    DamagedError, PermanentError
        It is not what was exported, or of an unknown format.
    ConfigError
        It was trained on something else than is declared here.
    NotReadyError
        It knows days that this environment has not seen by `day`, or labels are missing.
    """
    with opened(place) as (bundle, folder):
        use_case = load_use_case(bundle.use_case)
        require_same_declaration(bundle, use_case)
        plan = plan_training(use_case, day)
        _require_not_later(bundle, day, plan)
        models = [Model.load((folder / file).read_bytes()) for file in (MEASURED_FILE, MODEL_FILE)]
        inputs = choose_inputs(use_case, day, plan.days, corrected=False)
        rows = assemble(use_case, plan, inputs).rows
        fitter = Fitter(use_case, load_settings().threads, use_case.training.seed)
        facts = place_of(rows.num_rows, use_case)
        with open_assembled(rows, use_case, plan, Period.parse(str(day)), facts) as labelled:
            found = measure_challenger(use_case, day, labelled, models[0], fitter)
        version = register_copy(use_case, bundle, folder, found.holdout.features)
    if found.entry and found.entry.version == version:
        return Imported(use_case.name, version, f"Version {version} is in charge already.", True)
    newest = lake.read_day(
        use_case.owner_of("features"), "features", day, inputs.snapshots["features"]
    )
    evidence = gather_evidence(
        use_case, day, version, found, (models[0], models[1]), newest, bundle.origin
    )
    verdict, summary = judge(use_case, evidence, inputs.to_dict())
    if verdict.decision != "promote" or use_case.gate.mode != "auto":
        if verdict.decision == "promote" and use_case.gate.mode == "approve":
            by_hand = commands.put_in_charge(use_case.name, "promote", version, "the reason")
            summary += f"\n\ngate.mode is approve: who approves promotes it by {by_hand}"
        return Imported(use_case.name, version, summary, False)
    reason = f"{bundle.tags['reason']} ({bundle.name})"
    follow(use_case, evidence, verdict, "import", actor="evergreen import-model", reason=reason)
    return Imported(use_case.name, version, summary, True)


def _require_not_later(bundle: Bundle, day: date, plan: SplitPlan) -> None:
    theirs, trained = SplitPlan.from_json(bundle.tags["plan"]), bundle.tags["day"]
    if date.fromisoformat(trained) > day or theirs.holdout > plan.holdout:
        raise NotReadyError(
            f"{bundle.name} was trained for {trained} and measured on {theirs.holdout}; the "
            f"holdout of {day} here is {plan.holdout}, of which it may have learned. Judge it for "
            f"a day from {trained} on, once that is loaded here."
        )
