"""Trees that the workers of a Dask cluster fit together, a piece of the rows each.

A fit is one task per worker. They add up their histograms through XGBoost's collective, so each of
them makes the same trees. Who fits which piece, with how many threads, is decided here and not by
who is free, so the same number of workers gives the same bytes (ADR 0032).

Whatever happens to workers, scheduler or network, a fit ends: with the model or with an error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import xgboost as xgb

from evergreen.errors import BusyError, ConfigError, ServiceDownError, StagingError
from evergreen.provenance import receipts
from evergreen.settings import load_settings
from evergreen.training.external import StoredFrame
from evergreen.training.families import LEARNERS
from evergreen.training.frame import LabelledFrame

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

# How long the scheduler may take to answer, and workers to be there.
PATIENCE_SECONDS = 60
# How long a worker may wait for what the others have to say. Who is dead is noticed at once; this
# is for who neither works nor is dead. The first that is done with reading waits for the last.
SILENCE_SECONDS = 600
# How long a fit waits for that of another training.
TURN_SECONDS = 3600
# How often workers are looked after.
_LOOK_SECONDS = 2
# How long the others may take to end once one has failed.
_END_SECONDS = 30

_PACKAGES = ("dask", "distributed", "xgboost", "numpy", "pyarrow")


@dataclass(frozen=True)
class Boosting:
    """What the workers are asked for.

    Parameters
    ----------
    parameters
        What XGBoost is told; `nthread` is for each worker.
    rounds
        Boosting rounds, at most.
    patience
        After how many rounds without a lower loss of the test it stops; None for never.
    silence_seconds
        See `SILENCE_SECONDS`.
    """

    parameters: Mapping[str, Any]
    rounds: int
    patience: int | None
    silence_seconds: int


def describe(workers: int, threads: int) -> str:
    """Say what making a model again, byte for byte, depends on, for people."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("xgboost", "dask"))
    return (
        f"a Dask cluster (EVERGREEN_DASK_URL) of {workers} workers or more, whose workers fit with "
        f"{threads} threads each: {versions}"
    )


def boost(
    parameters: Mapping[str, Any],
    frame: StoredFrame,
    rounds: int,
    test: LabelledFrame | None = None,
    patience: int | None = None,
) -> xgb.Booster:
    """Fit trees on the cluster of `EVERGREEN_DASK_URL`.

    Parameters
    ----------
    parameters
        What XGBoost is told.
    frame
        Rows that are shared; see `StoredFrame.pieces`.
    rounds
        Boosting rounds, at most.
    test, patience
        Rows to stop by, and after how many rounds without a lower loss of them.

    Raises
    ------
    ServiceDownError
        There is no such cluster, it has too few workers, or one of them was lost.
    BusyError
        Another training has kept it.
    ConfigError
        Its workers run other code or other versions of libraries.
    StagingError
        A worker cannot read what is staged.
    """
    asked = Boosting(dict(parameters), rounds, patience, SILENCE_SECONDS)
    pieces = frame.pieces()
    with _connected() as client:
        workers = _choose(client, len(pieces))
        _require_same(client, workers)
        with _alone(client):
            ubj = _run(client, workers, asked, pieces, _divide(test, len(pieces)))
    booster = xgb.Booster()
    booster.load_model(bytearray(ubj))
    return booster


def _divide(test: LabelledFrame | None, pieces: int) -> list[LabelledFrame | None]:
    import numpy as np

    if test is None:
        return [None] * pieces
    place = np.arange(test.rows) * pieces // test.rows
    return [test.filter(place == piece) for piece in range(pieces)]


# --- who fits ------------------------------------------------------------------------------------


@contextmanager
def _connected() -> Iterator[Client]:
    from distributed import Client

    url = load_settings().dask_url
    if not url:
        raise ConfigError(
            "The rows are to be fitted on a Dask cluster, and EVERGREEN_DASK_URL is not set. Set "
            "it to the cluster's scheduler, such as tcp://scheduler:8786."
        )
    try:
        # Of TLS it knows what Dask's own configuration says.
        client = Client(url, timeout=PATIENCE_SECONDS, name="evergreen", set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ServiceDownError(
            f"No Dask scheduler answers at {url} (EVERGREEN_DASK_URL): {error} Start it with "
            "`dask scheduler`, or unset the variable to fit on one machine."
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"EVERGREEN_DASK_URL is {url!r}: {error}; expected a scheduler's URL, such as "
            "tcp://scheduler:8786."
        ) from error
    try:
        with client.as_current():
            yield client
    finally:
        # A scheduler that is gone cannot be told.
        with suppress(OSError, TimeoutError):
            client.close(timeout=_LOOK_SECONDS)


def _known(client: Client) -> dict[str, Any]:
    """Return the workers by their addresses, as the scheduler knows them now."""
    # Not `scheduler_info`, which gives what was known before if nobody answers.
    found: dict[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return found


def _choose(client: Client, wanted: int) -> list[str]:
    """Return the addresses of the first workers, by name; who fits which piece is no matter."""
    waited = time.monotonic() + PATIENCE_SECONDS
    while len(known := _known(client)) < wanted:
        if time.monotonic() > waited:
            raise ServiceDownError(
                f"The Dask cluster at {load_settings().dask_url} has {len(known)} workers; "
                f"expected {wanted} (EVERGREEN_DASK_WORKERS), because another number would give "
                "another model. Start more with `dask worker`, or set the variable."
            )
        time.sleep(_LOOK_SECONDS / 2)
    return sorted(known, key=lambda address: (str(known[address]["name"]), address))[:wanted]


def _require_same(client: Client, workers: Sequence[str]) -> None:
    """Refuse workers with other code: they might fit another model, or fail in odd ways."""
    found = client.get_versions(packages=[*_PACKAGES])
    ours = _versions(found["client"])
    for address in workers:
        theirs = _versions(found["workers"].get(address) or {})
        if differing := [name for name in ours if theirs.get(name) != ours[name]]:
            told = ", ".join(f"{n} {theirs.get(n)} instead of {ours[n]}" for n in differing)
            raise ConfigError(
                f"The Dask worker {address} has {told}. Start scheduler and workers from the image "
                "or virtual environment that the tasks run in."
            )
    try:
        digests = client.run(_digests, workers=[*workers])
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"A Dask worker cannot run this package: {error}. Start scheduler and workers from the "
            "image or virtual environment that the tasks run in."
        ) from error
    for address, theirs in digests.items():
        for what, digest in _digests().items():
            if theirs[what] != digest:
                raise ConfigError(
                    f"The Dask worker {address} has another {what} (digest {theirs[what]}; here "
                    f"{digest}). Start scheduler and workers from the image or checkout that the "
                    "tasks run in."
                )


def _versions(told: Mapping[str, Any]) -> dict[str, str]:
    python = ".".join(map(str, told.get("host", {}).get("python", "?").split(".")[:3]))
    return {"python": python, **{name: told.get("packages", {}).get(name) for name in _PACKAGES}}


def _digests() -> dict[str, str]:
    return {"package": receipts.package_digest(), "lock file": receipts.lock_digest()}


@contextmanager
def _alone(client: Client) -> Iterator[None]:
    """Let one fit at a time have the workers: of two, each would wait for the other's.

    Who dies with the lock loses it after half a minute.
    """
    from distributed import Lock

    lock = Lock("evergreen-fit", scheduler_rpc=client.scheduler, loop=client.loop)
    if not lock.acquire(timeout=TURN_SECONDS):
        raise BusyError(
            f"Another training has kept the Dask cluster for {TURN_SECONDS} seconds. Try again "
            "later, or give this one a cluster of its own."
        )
    try:
        yield
    finally:
        with suppress(OSError, TimeoutError):
            lock.release()


# --- one fit, seen from here ---------------------------------------------------------------------


def _run(
    client: Client,
    workers: Sequence[str],
    asked: Boosting,
    pieces: Sequence[StoredFrame],
    tests: Sequence[LabelledFrame | None],
) -> bytes:
    """Let each worker fit its piece, and look after them."""
    from distributed import CancelledError

    futures: list[Future] = []
    try:
        meeting = client.submit(
            _meet, len(workers), workers=workers[:1], allow_other_workers=False, pure=False
        )
        futures.append(meeting)
        _watch(client, workers, [meeting])
        told = meeting.result(timeout=PATIENCE_SECONDS)
        for rank, address in enumerate(workers):
            # Large, and for one worker: not a part of the graph.
            piece, test = (
                client.scatter(part, workers=[address], hash=False)
                for part in (pieces[rank], tests[rank])
            )
            futures.append(
                client.submit(
                    _fit,
                    *(rank, told, asked, piece, test),
                    workers=[address],
                    allow_other_workers=False,
                    pure=False,
                )
            )
        _watch(client, workers, futures[1:])
        ubj: bytes = futures[1].result(timeout=PATIENCE_SECONDS)
    except (OSError, TimeoutError, CancelledError) as error:
        raise ServiceDownError(
            f"The Dask scheduler at {load_settings().dask_url} was lost during the fit: {error!r}. "
            "Nothing was registered; it can be tried again once the scheduler is back."
        ) from error
    finally:
        _end(client, futures)
    return ubj


def _watch(client: Client, workers: Sequence[str], futures: Sequence[Future]) -> None:
    """Wait until all are done; raise what went wrong as soon as something has.

    A task whose worker is gone waits for it to come back, for ever, or is cancelled.
    """
    from distributed import CancelledError, wait

    while True:
        with suppress(TimeoutError, CancelledError):
            wait(futures, timeout=_LOOK_SECONDS)
        if all(future.status == "finished" for future in futures):
            return
        gone = sorted({*workers} - {*_known(client)})
        if client.status != "running":
            raise TimeoutError(f"the connection is {client.status}")
        if gone or any(future.status in ("error", "cancelled") for future in futures):
            break
    # One that failed takes the others with it; what it failed of is told by whom it befell.
    with suppress(TimeoutError, CancelledError):
        wait([f for f, address in zip(futures, workers, strict=False) if address not in gone], 10)
    gone = sorted({*workers} - {*_known(client)})
    errors = [error for f in futures if f.status == "error" and (error := f.exception())]
    own = [error for error in errors if not isinstance(error, xgb.core.XGBoostError)]
    for error in own:
        if isinstance(error, StagingError):
            raise StagingError(
                f"A Dask worker cannot read what is staged: {error} Workers must see the staging "
                "folder under the same path or URL as the tasks."
            ) from error
        raise error
    found = f"lost {', '.join(gone)}" if gone else "failed"
    told = str(errors[0]).splitlines()[0] if errors else "no error of the others"
    raise ServiceDownError(
        f"The Dask cluster at {load_settings().dask_url} {found} during a fit ({told}). Nothing "
        "was registered, and it can be tried again once all workers are there. A worker that is "
        "lost again and again has too little memory: see its log."
    )


def _end(client: Client, futures: Sequence[Future]) -> None:
    """Leave nothing on the cluster: who still fits is restarted by its nanny."""
    if client.status != "running":
        return
    try:
        busy = [
            address
            for address, keys in client.processing().items()
            if {*keys} & {future.key for future in futures}
        ]
        client.cancel(futures, force=True)
        if busy:
            logger.warning("restarting the Dask workers %s, which still fit", ", ".join(busy))
            client.restart_workers(busy, timeout=_END_SECONDS, raise_for_error=False)
    except Exception:
        # The error that led here says more.
        logger.warning("the Dask cluster could not be cleared", exc_info=True)


# --- on the workers ------------------------------------------------------------------------------


def _meet(workers: int) -> dict[str, str | int]:
    """Open the place where the workers of one fit find each other; it ends with them."""
    from distributed import get_worker
    from distributed.comm import get_address_host
    from xgboost.tracker import RabitTracker

    tracker = RabitTracker(
        workers,
        host_ip=get_address_host(get_worker().address),
        sortby="task",
        timeout=SILENCE_SECONDS,
    )
    tracker.start()

    def wait() -> None:
        # The thread keeps it alive. Who fits tells of what went wrong.
        with suppress(xgb.core.XGBoostError):
            tracker.wait_for()

    threading.Thread(target=wait, daemon=True).start()
    return dict(tracker.worker_args())


def _fit(
    rank: int,
    told: Mapping[str, str | int],
    asked: Boosting,
    piece: StoredFrame,
    test: LabelledFrame | None,
) -> bytes | None:
    """Fit together with the others; all make the same trees, and the first hands them over."""
    from xgboost.collective import CommunicatorContext

    threads, data = asked.parameters["nthread"], LEARNERS["trees"].data
    meeting = {"dmlc_timeout": asked.silence_seconds, "dmlc_task_id": f"{rank:06}"}
    with CommunicatorContext(**told, **meeting):
        fitted = data(piece, None, threads=threads)
        tested = [(data(test, None, threads=threads, reference=fitted), "test")] if test else None
        booster = xgb.train(
            dict(asked.parameters),
            fitted,
            asked.rounds,
            evals=tested,
            early_stopping_rounds=asked.patience if test else None,
            verbose_eval=False,
        )
    return bytes(booster.save_raw("ubj")) if rank == 0 else None
