"""The service: scores of entities by key, for one use case."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pyarrow as pa
from cachetools import LRUCache
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evergreen.contract import UseCase, arrow
from evergreen.errors import (
    EvergreenError,
    NotReadyError,
    PermanentError,
    ServiceDownError,
    TransientError,
)
from evergreen.features.store.async_reader import MADE_AT, AsyncReader
from evergreen.provenance import receipts
from evergreen.serving import events
from evergreen.serving.access import Door, RefusedError
from evergreen.serving.answer import Score, Scorer
from evergreen.serving.in_charge import InCharge, load
from evergreen.training.frame import AS_OF

logger = logging.getLogger(__name__)

MAX_KEYS = 1_000
MAX_EVENTS = 1_000
_MAX_BYTES = 256 * 1024
_REMEMBERED = 50_000
_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class Asked(BaseModel):
    """Whose scores are asked for."""

    keys: Annotated[list[str | int], Field(min_length=1, max_length=MAX_KEYS)]
    reasons: bool = False


class Sent(BaseModel):
    """What has happened, by the names of the source's columns."""

    events: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_EVENTS)]


@dataclass(frozen=True)
class Options:
    """How the service behaves.

    Parameters
    ----------
    threads
        Of XGBoost.
    refresh_seconds
        How often the ledger is asked who is in charge.
    clock
        By which events come; the same for all processes.
    """

    threads: int = 1
    refresh_seconds: float = 2.0
    clock: Callable[[], datetime] = receipts.now


class Service:
    """What answers: models, online values, and what was read last of each entity."""

    def __init__(self, use_case: UseCase, options: Options) -> None:
        self.use_case, self._options = use_case, options
        self._scorer = Scorer(use_case, threads=options.threads)
        self._reader = AsyncReader(use_case)
        self._intake = events.Intake(use_case, options.clock)
        self._in_charge: InCharge | None = None
        self.trouble = "not looked yet"
        self._key = pa.field(use_case.entity.key, arrow(use_case.key_dtype))
        # Scores by version and time of the features; and the newest features, for when the store
        # is down.
        self._scores: LRUCache[Any, Score] = LRUCache(_REMEMBERED)
        self._rows: LRUCache[Any, pa.Table] = LRUCache(_REMEMBERED)
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "evergreen_serving_seconds",
            "Time to answer",
            ["status"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._entities = Counter(
            "evergreen_serving_entities_total",
            "Entities that were asked for",
            ["found", "variant"],
            registry=self.registry,
        )
        self._hits = Counter(
            "evergreen_serving_cached_total", "Scores that were known", registry=self.registry
        )
        self._events = Counter(
            "evergreen_serving_events_total",
            "Events that were sent",
            ["table", "outcome"],
            registry=self.registry,
        )
        self._version = Gauge(
            "evergreen_serving_version", "Version in charge", ["variant"], registry=self.registry
        )

    @property
    def in_charge(self) -> InCharge | None:
        """Who answers now; None before the first look."""
        return self._in_charge

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer while the body runs; models are loaded beside it, and replaced in one step."""
        await self._reader.open()
        await self._refresh()
        # What is there now stays. Looking through all of it for garbage again and again stops every
        # request for a fifth of a second.
        gc.collect()
        gc.freeze()
        task = asyncio.create_task(self._refresh_for_ever())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._reader.close()

    async def _refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._options.refresh_seconds)
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            found = await asyncio.to_thread(load, self.use_case, self._in_charge)
        except EvergreenError as error:
            # Whoever answered goes on to.
            if str(error) != self.trouble:
                logger.warning("%s", error)
            self.trouble = str(error)
            return
        if self._in_charge is None or found.head != self._in_charge.head:
            logger.info("version %d answers", found.champion.version)
            self._version.labels("champion").set(found.champion.version)
            self._version.labels("challenger").set(
                found.challenger.version if found.challenger else 0
            )
        self._in_charge, self.trouble = found, ""

    async def answer(self, asked: Asked) -> tuple[InCharge, dict[str, Any]]:
        """Score the entities that are asked for.

        Raises
        ------
        HTTPException
            422 for keys that are none, 503 where nothing can be answered.
        """
        in_charge = self._in_charge
        if in_charge is None:
            raise HTTPException(503, self.trouble)
        keys = self._typed(asked.keys)
        stale = False
        try:
            features = await self._reader.read(keys)
        except ServiceDownError as error:
            if self.use_case.serving.when_down == "unavailable":
                raise HTTPException(503, str(error)) from error
            features, stale = self._remembered(keys, error), True
        scores = self._score(in_charge, features, explain=asked.reasons)
        now = datetime.now(UTC)
        found = {score.key for score in scores}
        unknown = [key for key in keys.to_pylist() if key not in found]
        if not stale:
            for key in unknown:
                # Who was erased is not remembered either.
                self._rows.pop(key, None)
        self._entities.labels("no", "").inc(len(unknown))
        return in_charge, {
            "use_case": self.use_case.name,
            "version": in_charge.champion.version,
            "stale": stale,
            "scores": [_told(score, now) for score in scores],
            "unknown": unknown,
        }

    async def take(self, table: str, sent: Sent) -> dict[str, Any]:
        """Take events of a table.

        Raises
        ------
        HTTPException
            404 for a table that is not pushed, 422 for what are no events, 503 where none can be
            taken.
        """
        if table not in self.use_case.serving.push:
            declared = ", ".join(self.use_case.serving.push) or "none"
            raise HTTPException(
                404, f"Events of {table} are not taken; serving.push declares {declared}."
            )
        try:
            taken = await self._intake.take(events.Request(table, sent.events))
        except (TransientError, NotReadyError) as error:
            raise HTTPException(503, str(error)) from error
        except PermanentError as error:
            raise HTTPException(422, str(error)) from error
        for outcome in ("accepted", "duplicates", "erased"):
            self._events.labels(table, outcome).inc(getattr(taken, outcome))
        self._events.labels(table, "refused").inc(len(taken.refused))
        return {
            "use_case": self.use_case.name,
            "table": table,
            "accepted": taken.accepted,
            "duplicates": taken.duplicates,
            "erased": taken.erased,
            "refused": [
                {"event": event, "rules": rules} for event, rules in sorted(taken.refused.items())
            ],
            "as_of": taken.as_of.isoformat() if taken.as_of else None,
        }

    def _typed(self, keys: Sequence[str | int]) -> pa.Array:
        try:
            typed = pa.array([str(key) for key in keys]).cast(self._key.type)
        except pa.ArrowInvalid as error:
            raise HTTPException(
                422, f"{self._key.name} is {self.use_case.key_dtype}; {error}"
            ) from error
        return typed.unique()

    def _score(self, in_charge: InCharge, features: pa.Table, *, explain: bool) -> list[Score]:
        names = features[self._key.name].to_pylist()
        instants = [*zip(features[AS_OF].to_pylist(), features[MADE_AT].to_pylist(), strict=True)]
        stamps = dict(zip(names, instants, strict=True))
        variants = self._scorer.chosen(in_charge, features[self._key.name])
        known: dict[Any, Score] = {}
        missing: dict[str, list[int]] = {}
        for place, (key, instant, variant) in enumerate(
            zip(names, instants, variants, strict=True)
        ):
            cached = self._scores.get((key, _version_of(in_charge, variant), instant, explain))
            if cached:
                known[key] = cached
            else:
                missing.setdefault(variant, []).append(place)
            self._entities.labels("yes", variant).inc()
        self._hits.inc(len(known))
        for variant, places in missing.items():
            rows = features.take(pa.array(places))
            for score in self._scorer.score(in_charge, rows, variant, explain=explain):
                known[score.key] = score
                self._scores[score.key, score.version, stamps[score.key], explain] = score
        for place, key in enumerate(names):
            self._rows[key] = features.slice(place, 1)
        return [known[key] for key in names]

    def _remembered(self, keys: pa.Array, error: ServiceDownError) -> pa.Table:
        found = [self._rows[key] for key in keys.to_pylist() if key in self._rows]
        if not found:
            raise HTTPException(503, f"{error} Nothing is remembered of these keys.") from error
        return pa.concat_tables(found)


def _version_of(in_charge: InCharge, variant: str) -> int:
    model = in_charge.challenger if variant == "challenger" else in_charge.champion
    assert model is not None
    return model.version


def _told(score: Score, now: datetime) -> dict[str, Any]:
    told = {
        "key": score.key,
        **score.columns,
        "band": score.band,
        "version": score.version,
        "variant": score.variant,
        "as_of": score.as_of.isoformat(),
        "age_seconds": int((now - score.as_of).total_seconds()),
    }
    return told if score.reasons is None else {**told, "reasons": list(score.reasons)}


def create_app(use_case: UseCase, door: Door, options: Options | None = None) -> FastAPI:
    """Build the service of one use case."""
    service = Service(use_case, options or Options())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title=f"Scores of {use_case.name}", lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service

    app.add_middleware(_Measured, seconds=service.seconds)

    async def somebody(request: Request) -> str:
        try:
            return door.name_of(request.headers.get("Authorization"))
        except RefusedError as error:
            raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from error

    def require_rate(name: str, keys: int) -> None:
        if wait := door.wait_seconds(name, keys):
            raise HTTPException(
                429, "Too many keys at once.", {"Retry-After": str(math.ceil(wait))}
            )

    async def answer(name: str, asked: Asked, response: Response) -> dict[str, Any]:
        require_rate(name, len(asked.keys))
        in_charge, found = await service.answer(asked)
        response.headers["X-Model-Version"] = str(in_charge.champion.version)
        return found

    @app.post("/v1/scores")
    async def scores(
        asked: Asked, response: Response, name: str = Depends(somebody)
    ) -> dict[str, Any]:
        """Give the scores of up to 1,000 entities."""
        return await answer(name, asked, response)

    @app.get("/v1/scores/{key}")
    async def score(
        key: str, response: Response, reasons: bool = False, name: str = Depends(somebody)
    ) -> dict[str, Any]:
        """Give the score of one entity."""
        found = await answer(name, Asked(keys=[key], reasons=reasons), response)
        if not found["scores"]:
            raise HTTPException(404, f"{use_case.entity.key} {key} has no online features.")
        return {**found["scores"][0], "stale": found["stale"]}

    @app.post("/v1/events/{table}")
    async def take(table: str, sent: Sent, name: str = Depends(somebody)) -> dict[str, Any]:
        """Take up to 1,000 events of a table, and move the values of their entities on."""
        require_rate(name, len(sent.events))
        return await service.take(table, sent)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "alive"}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, Any]:
        """Tell whether there is a model to answer by."""
        in_charge = service.in_charge
        response.status_code = 200 if in_charge else 503
        return {
            "ready": in_charge is not None,
            "version": in_charge.champion.version if in_charge else None,
            "trouble": service.trouble,
        }

    @app.get("/metrics")
    async def metrics(_: str = Depends(somebody)) -> Response:
        """Give what Prometheus reads."""
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    return app


class _Measured:
    """Times every request, and refuses bodies that are too large before they are read."""

    def __init__(self, app: ASGIApp, seconds: Histogram) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if _is_too_large(scope):
                refused = {"detail": f"The body has no length, or more than {_MAX_BYTES} bytes."}
                await JSONResponse(refused, 413)(scope, receive, sent)
            else:
                await self._app(scope, receive, sent)
        finally:
            self._seconds.labels(str(status)).observe(time.perf_counter() - began)


def _is_too_large(scope: Scope) -> bool:
    length = Headers(scope=scope).get("Content-Length", "")
    if length.isdigit():
        return int(length) > _MAX_BYTES
    # A body of unknown length may be of any.
    return scope["method"] not in ("GET", "HEAD", "OPTIONS")
