"""The customer-base simulation behind the generator: who buys when, from what latent state.

Every random number is a pure function of (seed, purpose, customer, number of the purchase): a
counter-based generator. No number depends on how many were drawn before it, so a customer's life
is the same whatever range of days is asked for, whichever process asks, and however many other
customers there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evergreen.contract import GeneratorSource, as_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_SECONDS = 86_400
_YEAR_DAYS = 365.25
# The season peaks on 5 December; in days since 1970-01-01, to which every year's peak is congruent.
_PEAK = 338.0
_EPOCH = date(1970, 1, 1)
# Bounds the memory of a simulation: customers whose lives are computed at once.
_BLOCK = 20_000


class Draw(IntEnum):
    """What a random number is for; each purpose has its own stream."""

    JOIN = 1
    SEGMENT = 2
    RATE = 3
    DROP_OUT = 4
    SPEND_SCALE = 5
    CHANNEL = 6
    GAP = 7
    DEATH = 8
    SPEND = 9
    DUPLICATE = 10
    MISSING_CUSTOMER = 11
    NON_POSITIVE = 12
    CANCELLED = 13
    UNPARSABLE = 14


def uniforms(seed: int, draw: Draw, customers: Ints, purchases: Ints | None = None) -> Floats:
    """Uniform numbers in (0, 1), one per customer, or per customer and purchase.

    Notes
    -----
    The finaliser of SplitMix64 (Steele, Lea & Flood 2014) over the key, then over each counter.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = _mix(np.array([seed, int(draw)], dtype=np.uint64) * golden)
    state = _mix(state[:1] ^ (state[1:] + golden))
    state = _mix(state + (customers.astype(np.uint64) + np.uint64(1)) * golden)
    if purchases is not None:
        state = _mix(state + (purchases.astype(np.uint64) + np.uint64(1)) * golden)
    # 52 bits and a half: never 0, never 1.
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class World:
    """A declared simulation, and when its days begin.

    Parameters
    ----------
    source
        The `source` section.
    first_day
        Local day of the first customers.
    zone
        Whose midnights begin the days.
    """

    source: GeneratorSource
    first_day: date
    zone: str = "UTC"

    def begin_of(self, day: date) -> float:
        """Return when a local day begins, in days since 1970-01-01 00:00 UTC."""
        return instant_in_days(as_of(day - timedelta(days=1), self.zone))

    @property
    def changed_at(self) -> float:
        """When habits change, in days since 1970-01-01 00:00 UTC; infinity if they never do."""
        change = self.source.regime_change
        return math.inf if change is None else self.begin_of(change.day)


@dataclass(frozen=True)
class Clock:
    """Business time: how much purchasing a stretch of calendar time is worth.

    The purchase rate of a customer at time t is `rate * season(t) * regime(t)` with
    `season(t) = 1 + amplitude * cos(2 pi (t - peak) / 365.25)`. `elapsed` is the integral of
    `season * regime`, `at` its inverse; a purchase process that is Poisson with varying rate on
    the calendar is Poisson with constant rate on this clock. All times are days since
    1970-01-01 00:00 UTC, float64.
    """

    amplitude: float
    regime_at: float
    regime_rate: float

    def elapsed(self, at: Floats) -> Floats:
        """Return the business days from the clock's origin until calendar time `at`."""
        season = self._season(at)
        if not self._changes:
            return season
        change = self._season(np.array([self.regime_at]))[0]
        return np.where(season < change, season, change + (season - change) * self.regime_rate)

    def at(self, elapsed: Floats) -> Floats:
        """Calendar time at which that many business days have passed."""
        if not self._changes:
            return self._season_inverse(elapsed)
        change = self._season(np.array([self.regime_at]))[0]
        after = change + (elapsed - change) / self.regime_rate
        return self._season_inverse(np.where(elapsed < change, elapsed, after))

    @property
    def _changes(self) -> bool:
        return math.isfinite(self.regime_at)

    def _season(self, at: Floats) -> Floats:
        wave = 2 * np.pi / _YEAR_DAYS
        return at + self.amplitude / wave * np.sin(wave * (at - _PEAK))

    def _season_inverse(self, elapsed: Floats) -> Floats:
        # Over one year by interpolation, then Newton's steps to the last digit.
        wave = 2 * np.pi / _YEAR_DAYS
        grid = np.linspace(0.0, _YEAR_DAYS, 4097)
        values = grid + self.amplitude / wave * np.sin(wave * grid)
        years, within = np.divmod(elapsed - _PEAK, _YEAR_DAYS)
        solution = np.interp(within, values, grid)
        for _ in range(4):
            excess = solution + self.amplitude / wave * np.sin(wave * solution) - within
            solution = solution - excess / (1 + self.amplitude * np.cos(wave * solution))
        return _PEAK + years * _YEAR_DAYS + solution


def clock_of(world: World) -> Clock:
    """Return the clock of a world."""
    change = world.source.regime_change
    rate = 1.0 if change is None else change.purchase_rate
    return Clock(world.source.season, world.changed_at, rate)


@dataclass(frozen=True, eq=False)
class Customers:
    """Latent state of every customer; arrays of length `n_customers`.

    `rate` purchases per business day; `drop_out` probability of leaving after a purchase before
    the regime change; `spend_shape` and `spend_scale` (eur) of the gamma distribution of the
    spend per purchase; `joined` days since 1970-01-01.
    """

    rate: Floats
    drop_out: Floats
    spend_shape: Floats
    spend_scale: Floats
    joined: Floats


@dataclass(frozen=True, eq=False)
class Purchases:
    """Every purchase before the horizon, by (second, customer, number); arrays of equal length.

    `customer` from 0; `number` of the customer's purchase from 1; `second` since 1970-01-01 UTC.
    """

    customer: Ints
    number: Ints
    second: Ints

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> Purchases:
        """Return some of the purchases."""
        return Purchases(self.customer[part], self.number[part], self.second[part])


@lru_cache(maxsize=4)
def draw_customers(world: World) -> Customers:
    """Draw the latent state of all customers.

    Notes
    -----
    BG/NBD: purchase rate ~ Gamma(r, rate=alpha), drop-out ~ Beta(a, b). Gamma-gamma: spend of a
    purchase ~ Gamma(p, rate=nu), nu ~ Gamma(q, rate=gamma). Customers join evenly over
    `acquisition_days` from `first_day` on.
    """
    source = world.source
    ids = np.arange(source.customers, dtype=np.int64)
    draws = {draw: uniforms(source.seed, draw, ids) for draw in Draw if draw < Draw.GAP}
    shares = np.cumsum([segment.share for segment in source.segments])
    kind = np.searchsorted(shares / shares[-1], draws[Draw.SEGMENT], side="right")

    def parameter(name: str) -> Floats:
        return np.array([getattr(segment, name) for segment in source.segments], float)[kind]

    rate = special.gammaincinv(parameter("r"), draws[Draw.RATE]) / parameter("alpha")
    drop_out = special.betaincinv(parameter("a"), parameter("b"), draws[Draw.DROP_OUT])
    nu = special.gammaincinv(parameter("q"), draws[Draw.SPEND_SCALE]) / parameter("gamma")
    return Customers(
        # A rate of zero would make the next purchase a division by zero instead of never.
        rate=np.maximum(rate, 1e-12),
        drop_out=drop_out,
        spend_shape=parameter("p"),
        spend_scale=1.0 / np.maximum(nu, 1e-12),
        joined=world.begin_of(world.first_day) + draws[Draw.JOIN] * source.acquisition_days,
    )


@lru_cache(maxsize=2)
def simulate(world: World, horizon: date) -> Purchases:
    """Simulate all lives from the first purchase on, up to `horizon` (a UTC day, excluded).

    Notes
    -----
    A customer joins with the first purchase. After every purchase, the first among them (as in
    the MBG/NBD variant), the customer leaves for good with the drop-out probability; otherwise the
    next purchase follows after an exponential gap on the business clock. Cost O(n_purchases),
    vectorised over customers: one round per purchase number.
    """
    customers = draw_customers(world)
    end = float(days_since_epoch(horizon))
    found: list[tuple[Ints, Ints, Ints]] = []
    count = world.source.customers
    for block in range(0, count, _BLOCK):
        ids = np.arange(block, min(block + _BLOCK, count), dtype=np.int64)
        found += _lives(world, customers, ids, end)
    customer, number, second = (
        np.concatenate([part[position] for part in found] or [np.empty(0, np.int64)])
        for position in range(3)
    )
    order = np.lexsort((number, customer, second))
    return Purchases(customer[order], number[order], second[order])


def _lives(
    world: World, customers: Customers, ids: Ints, end: float
) -> list[tuple[Ints, Ints, Ints]]:
    clock = clock_of(world)
    at = customers.joined[ids]
    rounds: list[tuple[Ints, Ints, Ints]] = []
    number = 1
    while True:
        inside = at < end
        ids, at = ids[inside], at[inside]
        if not ids.size:
            return rounds
        numbers = np.full(ids.shape, number, dtype=np.int64)
        rounds.append((ids, numbers, np.floor(at * DAY_SECONDS).astype(np.int64)))
        stays = survives(world, customers, ids, numbers, at)
        ids, at, numbers = ids[stays], at[stays], numbers[stays]
        gaps = -np.log(uniforms(world.source.seed, Draw.GAP, ids, numbers)) / customers.rate[ids]
        at = clock.at(clock.elapsed(at) + gaps)
        number += 1


def survives(
    world: World, customers: Customers, ids: Ints, numbers: Ints, at: Floats
) -> NDArray[np.bool_]:
    """Whether each customer stays after that purchase, made at `at` (days since 1970-01-01)."""
    leaves = drop_out_at(world, customers.drop_out[ids], at)
    return np.asarray(uniforms(world.source.seed, Draw.DEATH, ids, numbers) >= leaves)


def drop_out_at(world: World, drop_out: Floats, at: Floats | float) -> Floats:
    """Drop-out probability of a purchase at `at`, with the regime change."""
    change = world.source.regime_change
    if change is None:
        return drop_out
    after = np.minimum(drop_out * change.drop_out, 1.0)
    return np.where(np.asarray(at) < world.changed_at, drop_out, after)


def paid(world: World, purchases: Purchases) -> Floats:
    """Return the amount of each purchase in eur: whole cents, at least one."""
    source, customers = world.source, draw_customers(world)
    quantile = uniforms(source.seed, Draw.SPEND, purchases.customer, purchases.number)
    shape = customers.spend_shape[purchases.customer]
    amounts = special.gammaincinv(shape, quantile) * customers.spend_scale[purchases.customer]
    if source.regime_change is not None:
        changed = purchases.second >= world.changed_at * DAY_SECONDS
        amounts = np.where(changed, amounts * source.regime_change.spend, amounts)
    return np.asarray(np.maximum(np.round(amounts, 2), 0.01))


def days_since_epoch(day: date) -> int:
    """Days from 1970-01-01 to `day`."""
    return (day - _EPOCH).days


def horizon_after(day: date) -> date:
    """Return the first day of the next year: few horizons, so that simulations are reused."""
    return date(day.year + 1, 1, 1)


def instant_in_days(instant: datetime) -> float:
    """Days from 1970-01-01 00:00 UTC to an aware instant."""
    origin = datetime.combine(_EPOCH, time(), UTC)
    return (instant - origin).total_seconds() / DAY_SECONDS
