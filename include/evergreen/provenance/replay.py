"""Make an output again from what its receipt says it was made of, and compare.

What was recorded is used, never what is current: snapshots, pins, days, seed, threads, model
version. A replay publishes and registers nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from evergreen import lake
from evergreen.contract import Period, UseCase, load_use_case
from evergreen.errors import PermanentError
from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day
from evergreen.provenance import erased, receipts
from evergreen.provenance.receipts import Receipt
from evergreen.settings import load_settings

if TYPE_CHECKING:
    import pyarrow as pa

    from evergreen.features.compute.past import Given
    from evergreen.training.tracking import RunFacts

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Compared:
    """One thing that was made again: digests of what was recorded and of what came out."""

    what: str
    recorded: str
    replayed: str

    @property
    def equal(self) -> bool:
        """Whether the replay gave what was recorded."""
        return self.recorded == self.replayed


@dataclass(frozen=True)
class Replay:
    """A replay's outcome.

    Parameters
    ----------
    subject
        What was replayed, for people.
    compared
        Everything that was compared; never empty.
    notes
        What differs between then and now and may explain a difference.
    """

    subject: str
    compared: tuple[Compared, ...]
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether all of it came out as recorded."""
        return all(item.equal for item in self.compared)


def replay(target: str) -> Replay:
    """Replay a receipt or a training run.

    Parameters
    ----------
    target
        A receipt's sequence number (`4711`), a registered version (`churn/3`), or the id of an
        MLflow run.

    Raises
    ------
    NotReadyError
        It does not exist, or a snapshot it was made from has been expired.
    ErasedError
        Somebody whose rows were part of it was erased since.
    PermanentError
        It cannot be replayed here: another lock file, another declaration, or a step that is
        not replayed. The message says which and what to do.
    """
    if target.isdigit():
        return replay_receipt(receipts.by_sequence(int(target)))
    from evergreen.training.tracking import describe_run, describe_version

    name, slash, version = target.partition("/")
    if slash:
        run_id = describe_version(load_use_case(name), int(version)).run_id
        return replay_training(describe_run(run_id))
    return replay_training(describe_run(target))


def replay_receipt(receipt: Receipt) -> Replay:
    """Make one day of a table again from the inputs its receipt names."""
    use_case = load_use_case(receipt.use_case)
    what = f"receipt {receipt.sequence}: {receipt.output_table} of {receipt.day}"
    erased.require_not_erased(what, receipts.erased_since(receipt))
    make = _maker(use_case, receipt.step)
    if make is None:
        raise PermanentError(
            f"Receipt {receipt.sequence} is of {receipt.step}, which is not replayed; expected one "
            "that published a delivered table, features, labels or predictions, or a training run."
        )
    _require_same_lock(f"receipt {receipt.sequence}", receipt.lock_digest)
    table = receipt.output_table.removeprefix(f"{receipt.use_case}.")
    if receipt.contract_digest != use_case.contract_digest(table):
        raise PermanentError(
            f"Receipt {receipt.sequence} was made by another declaration of {table} "
            f"({receipt.contract_digest}; now it is {use_case.contract_digest(table)}). Check out "
            "the commit that ran on the receipt's `recorded_at`, and replay there."
        )
    _require_snapshots(what, use_case, receipt.inputs, receipt.sequence)
    rows = make(use_case, receipt)
    found = digest_by_day(rows, [receipt.day], STAMPS | ORIGINS)[receipt.day]
    return Replay(
        what,
        (Compared(f"content of {receipt.output_table}", receipt.content, found),),
        _notes(receipt.code_digest, use_case),
    )


def replay_training(run: RunFacts) -> Replay:
    """Assemble a run's training set again, choose and fit again, and compare rows and models."""
    from evergreen.training.assemble import TrainingInputs, assemble
    from evergreen.training.external import open_assembled
    from evergreen.training.fit import Fitter
    from evergreen.training.record import frames_of, told_parameters
    from evergreen.training.refit import fit_pair
    from evergreen.training.tune import choose_recipe

    use_case = load_use_case(run.tags["use_case"])
    if origin := run.tags.get("origin"):
        raise PermanentError(
            f"Run {run.run_id} is a copy of version {origin}; what that was trained on is there. "
            "Replay it there."
        )
    if "inputs" not in run.tags or "lock_digest" not in run.tags:
        raise PermanentError(
            f"Run {run.run_id} does not say what it was trained on; it was made before runs did."
        )
    what = f"run {run.run_id}: training of {use_case.name} for {run.tags['day']}"
    _require_snapshots(what, use_case, json.loads(run.tags["inputs"]))
    _require_same_lock(f"run {run.run_id}", run.tags["lock_digest"])
    if run.declared and [*run.declared] != use_case.feature_names:
        raise PermanentError(
            f"Run {run.run_id} was trained on the features {', '.join(run.declared)}; declared are "
            f"now {', '.join(use_case.feature_names)}. Check out the commit it was trained with "
            f"(its tag code_digest is {run.tags['code_digest']}), and replay there."
        )
    plan = run.plan
    inputs = TrainingInputs.from_dict(json.loads(run.tags["inputs"]))
    if "replay_needs" in run.tags and not load_settings().dask_url:
        raise PermanentError(
            f"Run {run.run_id} was fitted by several workers, and one machine alone would make "
            f"another model. To replay it, have {run.tags['replay_needs']}. Processes on this "
            "machine will do: one `dask scheduler`, and `dask worker` as often."
        )
    fitter = Fitter(use_case, int(run.parameters["nthread"]), int(run.tags["seed"]))
    facts = {
        "external_memory": run.parameters.get("external_memory") == str(True),
        "dask_workers": int(run.parameters.get("dask_workers", 0)),
    }
    assembled, period = assemble(use_case, plan, inputs).rows, Period.parse(run.tags["day"])
    with open_assembled(assembled, use_case, plan, period, facts) as rows:
        recipe = choose_recipe(rows, plan, fitter, trials=json.loads(run.tags["trials"])).recipe
        pair = fit_pair(rows, plan, recipe, fitter)
        frames = frames_of(rows, plan, pair.final)
        compared = (
            *(
                Compared(f"rows of {part}", recorded, frames[part].digest[: len(recorded)])
                for part, recorded in run.frame_digests.items()
            ),
            Compared("family", run.tags["family"], recipe.family),
            Compared("measured model", run.tags["measured_digest"], pair.measured.digest),
            Compared("model file", run.tags["model_digest"], pair.final.digest),
        )
    told = {name: str(value) for name, value in told_parameters(fitter, recipe, pair.final).items()}
    differing = sorted(name for name in told if run.parameters.get(name) != told[name])
    notes = [f"use_case.yaml now trains with another {name}" for name in differing]
    return Replay(
        what,
        compared,
        (*_notes(run.tags["code_digest"], use_case), *notes),
    )


def _require_snapshots(
    what: str, use_case: UseCase, inputs: Mapping[str, Any], sequence: int | None = None
) -> None:
    """Say so if a snapshot that was read is gone because of an erasure."""
    for name, value in inputs.items():
        table = name.partition("/")[0]
        if not value or table not in {*use_case.tables, "features", "labels"}:
            continue
        owner, snapshot = use_case.owner_of(table), int(value)
        if not lake.has_snapshot(owner, table, snapshot):
            made = sequence or receipts.of_snapshot(owner, table, snapshot)
            erased.require_not_erased(what, erased.forgotten(owner, made))


def _require_same_lock(what: str, recorded: str) -> None:
    current = receipts.lock_digest()
    if recorded != current:
        raise PermanentError(
            f"{what} was made with another lock file (digest {recorded}; requirements.txt here has "
            f"{current}). Other versions of the libraries may give other bytes: check out the "
            "commit it was made with, run `make setup`, and replay there."
        )


def _notes(code_digest: str, use_case: UseCase) -> tuple[str, ...]:
    current = receipts.code_digest(use_case)
    if code_digest == current:
        return ()
    return (f"the code has changed since (digest {code_digest}, now {current})",)


# --- one maker per step that is replayed ---------------------------------------------------------


def _maker(use_case: UseCase, step: str) -> Callable[[UseCase, Receipt], pa.Table] | None:
    known: dict[str, Callable[[UseCase, Receipt], pa.Table]] = {
        "publish_features": _features,
        "publish_labels": _labels,
        "publish_predictions": _predictions,
        "publish_shadows": _shadows,
    }
    for name in use_case.tables:
        known[f"publish_{name}"] = known[f"publish_{name}_quarantine"] = _delivered
    return known.get(step)


def _delivered(use_case: UseCase, receipt: Receipt) -> pa.Table:
    from evergreen.quality.delivery import read_and_split

    name = receipt.step.removeprefix("publish_").removesuffix("_quarantine")
    table = use_case.tables[name]
    without_data = [receipt.day] if "without_data" in receipt.counts else []
    day = Period(receipt.day, receipt.day + _ONE_DAY)
    ((_, split),) = read_and_split(table, day, without_data)
    return split.quarantined if receipt.part else split.accepted


def _features(use_case: UseCase, receipt: Receipt) -> pa.Table:
    from evergreen.features.compute.run import compute_features

    return compute_features(
        use_case,
        _given(use_case, receipt, receipt.day + _ONE_DAY),
        [receipt.day],
    )


def _labels(use_case: UseCase, receipt: Receipt) -> pa.Table:
    from evergreen.features.compute.run import compute_labels

    end = receipt.day + _ONE_DAY + timedelta(days=use_case.target.horizon_days)
    return compute_labels(
        use_case,
        _given(use_case, receipt, end),
        [receipt.day],
    )


def _predictions(use_case: UseCase, receipt: Receipt) -> pa.Table:
    return _scores(use_case, receipt)[0]


def _shadows(use_case: UseCase, receipt: Receipt) -> pa.Table:
    return _scores(use_case, receipt)[1]


def _scores(use_case: UseCase, receipt: Receipt) -> tuple[pa.Table, pa.Table]:
    from evergreen.scoring.score import score
    from evergreen.scoring.variants import CHALLENGER, Split, divide, shadows_schema
    from evergreen.training.tracking import load_version

    features = lake.read_day(
        use_case.owner_of("features"),
        "features",
        receipt.day,
        snapshot_id=int(receipt.inputs["features"]),
    )
    threads = load_settings().threads
    model = load_version(use_case, int(receipt.inputs["model_version"]))
    ours = score(model, features, use_case, threads=threads)
    split = Split.of(receipt.inputs)
    if split is None:
        return ours, shadows_schema(use_case).empty_table()
    other = load_version(use_case, split.challenger)
    theirs = score(other, features, use_case, threads=threads, variant=CHALLENGER)
    return divide(ours, theirs, split, use_case)


def _given(use_case: UseCase, receipt: Receipt, end: date) -> dict[str, Given]:
    """Return all files of the snapshots that the receipt names, and no totals."""
    from evergreen.features.compute.past import Given

    return {
        name: Given(
            lake.scan(use_case.owner_of(name), name, end=end, snapshot_id=int(snapshot)).paths
        )
        for name, snapshot in receipt.inputs.items()
        if snapshot
    }
