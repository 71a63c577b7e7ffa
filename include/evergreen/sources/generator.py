"""Orders of a simulated customer base, and what no real source can tell: the truth behind them.

The simulation follows

* Fader, P. S., Hardie, B. G. S., Lee, K. L. (2005). "Counting your customers" the easy way: an
  alternative to the Pareto/NBD model. Marketing Science 24(2), 275-284: purchases and drop-out;
* Fader, P. S., Hardie, B. G. S. (2013). The gamma-gamma model of monetary value: spend;

with segments of different habits, a yearly season, and a change of everybody's habits at a date.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import special

from evergreen.contract import Events, GeneratorSource
from evergreen.errors import ConfigError
from evergreen.sources.base import CHUNK_ROWS, check_columns, chunked, days_between, raw_table
from evergreen.sources.simulation import (
    DAY_SECONDS,
    Customers,
    Draw,
    Floats,
    Ints,
    Purchases,
    World,
    clock_of,
    days_since_epoch,
    draw_customers,
    drop_out_at,
    horizon_after,
    instant_in_days,
    simulate,
    survives,
    uniforms,
)

COLUMNS = ("order_id", "customer_id", "ordered_at", "amount_eur", "status", "channel")
_CHANNELS = ("web", "app", "store")
_CHANNEL_SHARES = (0.5, 0.8)


@dataclass(frozen=True)
class GeneratorReader:
    """Orders of the simulation as raw rows.

    Parameters
    ----------
    world
        The declared simulation, and when its days begin.
    required
        Columns of the contract; they must be among `COLUMNS`.

    Notes
    -----
    Columns, all text: `order_id` (`O<customer>-<n>`), `customer_id` (`C<customer>`),
    `ordered_at` (ISO 8601, UTC, `Z`), `amount_eur` (two decimals), `status` (`completed`,
    `cancelled`), `channel`. Dirt is drawn per order, each kind on its own, so one row may have
    several: `duplicates` repeats a row at once, `missing_customer` leaves `customer_id` null,
    `non_positive_amount` makes the amount zero or negative, `unparsable_date` writes an hour that
    does not exist. A row with such a date still belongs to its day, as `_day` says.

    A first read simulates all lives up to the end of the year (0.1 s for 6,000 customers, about
    1.5 s for 60,000), later ones in the same process reuse it. Amounts and dirt are drawn only for
    the days asked for.
    """

    world: World
    required: tuple[str, ...]

    def read(self, start: date, end: date) -> Iterator[pa.Table]:
        """Yield raw rows; see `Source.read`. Rows of a day are ordered by time."""
        check_columns(COLUMNS, self.required, "The generator")
        return chunked(self._read(days_between(start, end)), COLUMNS)

    def _read(self, days: list[date]) -> Iterator[pa.Table]:
        if not days:
            return
        bounds = [self.world.begin_of(day) for day in (*days, days[-1] + timedelta(days=1))]
        midnights = np.rint(np.array(bounds) * DAY_SECONDS).astype(np.int64)
        last_second = datetime.fromtimestamp(int(midnights[-1]) - 1, UTC)
        purchases = simulate(self.world, horizon_after(last_second.date()))
        offsets = np.searchsorted(purchases.second, midnights)
        first = 0
        for position in range(1, len(offsets)):
            # Whole days, as many as fit; half the bound, because every row may be doubled.
            full = offsets[min(position + 1, len(days))] - offsets[first] > CHUNK_ROWS // 2
            if full or position == len(days):
                part = slice(int(offsets[first]), int(offsets[position]))
                sizes = np.diff(offsets[first : position + 1])
                day = np.repeat(np.arange(first, position), sizes) + days_since_epoch(days[0])
                first = position
                if part.stop > part.start:
                    yield self._rows(purchases, part, day.astype(np.int32))

    def _rows(self, purchases: Purchases, part: slice, days: NDArray[np.int32]) -> pa.Table:
        customer, number = purchases.customer[part], purchases.number[part]
        second = purchases.second[part]
        seed, dirt = self.world.source.seed, self.world.source.dirt

        def hit(draw: Draw, share: float) -> NDArray[np.bool_]:
            return uniforms(seed, draw, customer, number) < share

        cancelled = hit(Draw.CANCELLED, dirt.cancelled)
        unparsable = hit(Draw.UNPARSABLE, dirt.unparsable_date)
        missing = hit(Draw.MISSING_CUSTOMER, dirt.missing_customer)
        channel = np.searchsorted(_CHANNEL_SHARES, uniforms(seed, Draw.CHANNEL, customer))
        ids = _text(customer + 1)
        instants = np.datetime_as_string(second.astype("datetime64[s]"))
        columns = {
            "order_id": pc.binary_join_element_wise("O", ids, "-", _text(number), ""),
            "customer_id": pc.if_else(
                missing, pa.scalar(None, pa.string()), pc.binary_join_element_wise("C", ids, "")
            ),
            "ordered_at": pc.if_else(
                unparsable,
                pa.array(np.char.add(instants.astype("U10"), "T25:61:00Z"), pa.string()),
                pa.array(np.char.add(instants, "Z"), pa.string()),
            ),
            "amount_eur": _money(self._amounts(customer, number, second)),
            "status": pc.if_else(cancelled, "cancelled", "completed"),
            "channel": pa.array(np.array(_CHANNELS, object)[channel], pa.string()),
        }
        repeats = 1 + hit(Draw.DUPLICATE, dirt.duplicates).astype(np.int64)
        index = pa.array(np.repeat(np.arange(len(second)), repeats))
        every_day = np.repeat(days, repeats)
        _, starts, sizes = np.unique(every_day, return_index=True, return_counts=True)
        within = np.arange(len(every_day)) - np.repeat(starts, sizes) + 1
        every_day = pa.array(every_day).cast(pa.date32())
        prefix = f"generator:{seed}/"
        return raw_table(
            {name: column.take(index) for name, column in columns.items()},
            source=pc.binary_join_element_wise(prefix, every_day.cast(pa.string()), ""),
            rows=pa.array(within),
            day=every_day,
        )

    def _amounts(self, customer: Ints, number: Ints, second: Ints) -> Floats:
        """Amounts in eur, at least one cent unless they are dirt."""
        source = self.world.source
        customers = draw_customers(self.world)
        quantile = uniforms(source.seed, Draw.SPEND, customer, number)
        shape = customers.spend_shape[customer]
        amounts = special.gammaincinv(shape, quantile) * customers.spend_scale[customer]
        if source.regime_change is not None:
            changed = second >= self.world.changed_at * DAY_SECONDS
            amounts = np.where(changed, amounts * source.regime_change.spend, amounts)
        amounts = np.maximum(np.round(amounts, 2), 0.01)
        share = source.dirt.non_positive_amount
        draw = uniforms(source.seed, Draw.NON_POSITIVE, customer, number)
        amounts = np.where(draw < share, -amounts, amounts)
        return np.where(draw < share / 2, 0.0, amounts)


def removed_share(source: GeneratorSource) -> float:
    """Share of purchases that no validated table will hold, because dirt spoils their row."""
    dirt = source.dirt
    kinds = (
        dirt.missing_customer,
        dirt.non_positive_amount,
        dirt.cancelled,
        dirt.unparsable_date,
    )
    return float(1 - np.prod([1 - share for share in kinds]))


def oracle_no_purchase(table: Events, as_of: datetime, horizon_days: int) -> pa.Table:
    """Return the true probability that a customer makes no valid purchase in the horizon.

    Parameters
    ----------
    table
        Events whose source is the generator.
    as_of
        Aware instant; purchases before it have happened.
    horizon_days
        Length of `[as_of, as_of + horizon_days)` in days of the table's zone.

    Returns
    -------
    pa.Table
        `customer_id` string, `probability` float64 in (0, 1]: one row per customer with at least
        one valid purchase before `as_of`, in the order of the ids.

    Raises
    ------
    ConfigError
        The source is not a generator, `as_of` has no zone, or the horizon is not positive.

    Notes
    -----
    The oracle knows each customer's latent state: whether they have already left, their purchase
    rate and their drop-out probability. It also knows the calendar ahead, the season and the
    regime change *before* it happens; nobody who lives at `as_of` could. It is therefore an upper
    bound for every model, and the bound is not reachable: a model has to infer the state from the
    purchases.

    For a customer who is still there, with rate l per business day, drop-out p after a purchase,
    a share q of purchases that dirt removes from sight, and L business days in the horizon: valid
    purchases come at rate l(1-q), departures that nobody sees at rate lqp. With c = 1-q+qp, the
    first of the two events comes at rate lc and is a departure with probability qp/c, so

        P(none) = exp(-lcL) + qp/c (1 - exp(-lcL)).

    A regime change inside the horizon splits it in two stretches, each with its own p, which are
    chained. This is exact, not an approximation. It takes the contract at its word: rows with a
    missing customer, a non-positive amount, status `cancelled` or an unparsable date are taken to
    be quarantined. Cost O(n_purchases).
    """
    source, zone = table.source, ZoneInfo(table.setting.zone)
    if not isinstance(source, GeneratorSource):
        raise ConfigError(
            f"{table.where}.source.kind: found {source.kind!r}; only a generator knows the truth."
        )
    if as_of.utcoffset() is None:
        raise ConfigError(f"as_of is {as_of.isoformat()} without a zone; expected a UTC instant.")
    if horizon_days < 1:
        raise ConfigError(f"horizon_days is {horizon_days}; expected at least 1.")
    world = World(source, table.setting.first_day, table.setting.zone)
    customers = draw_customers(world)
    purchases = simulate(world, horizon_after(as_of.astimezone(UTC).date()))
    begin = instant_in_days(as_of)
    # On the clock of the zone, whose days may have 23 or 25 hours.
    end = instant_in_days(as_of.astimezone(zone) + timedelta(days=horizon_days))
    past = int(np.searchsorted(purchases.second, begin * DAY_SECONDS, side="left"))
    customer, number = purchases.customer[:past], purchases.number[:past]

    seen = np.zeros(source.customers, dtype=bool)
    seen[customer[_valid(source, customer, number)]] = True
    known = np.flatnonzero(seen).astype(np.int64)

    # Purchases come in order of time: the last assignment to a customer is the newest purchase.
    newest = np.zeros(source.customers, dtype=np.int64)
    newest[customer] = np.arange(past)
    last = newest[known]
    there = survives(world, customers, known, number[last], purchases.second[last] / DAY_SECONDS)

    nothing = _nothing_valid(world, customers, known, begin, end)
    return pa.table(
        {
            "customer_id": pc.binary_join_element_wise("C", _text(known + 1), ""),
            "probability": pa.array(np.where(there, nothing, 1.0)),
        }
    )


def _nothing_valid(
    world: World, customers: Customers, known: Ints, begin: float, end: float
) -> Floats:
    """P(no valid purchase in [begin, end)) of customers who are there at `begin`."""
    clock = clock_of(world)
    removed = removed_share(world.source)
    cuts = [begin, *[cut for cut in (clock.regime_at,) if begin < cut < end], end]
    nothing = np.zeros(len(known))
    still_there = np.ones(len(known))
    for low, high in pairwise(cuts):
        stretch = float(np.diff(clock.elapsed(np.array([low, high])))[0])
        hidden_departure = removed * drop_out_at(world, customers.drop_out[known], low)
        either = 1 - removed + hidden_departure
        neither = np.exp(-customers.rate[known] * either * stretch)
        # With everything removed and nobody leaving neither event exists.
        departs = np.divide(hidden_departure, either, out=np.zeros_like(neither), where=either > 0)
        nothing += still_there * departs * (1 - neither)
        still_there *= neither
    return np.asarray(nothing + still_there)


def _valid(source: GeneratorSource, customer: Ints, number: Ints) -> NDArray[np.bool_]:
    dirt = source.dirt
    valid = np.ones(len(customer), dtype=bool)
    for draw, share in (
        (Draw.MISSING_CUSTOMER, dirt.missing_customer),
        (Draw.NON_POSITIVE, dirt.non_positive_amount),
        (Draw.CANCELLED, dirt.cancelled),
        (Draw.UNPARSABLE, dirt.unparsable_date),
    ):
        valid &= uniforms(source.seed, draw, customer, number) >= share
    return valid


def _text(numbers: Ints) -> Any:
    return pa.array(numbers).cast(pa.string())


def _money(amounts: Floats) -> Any:
    """Two decimals, as a cash register prints them."""
    cents = np.round(amounts * 100).astype(np.int64)
    whole, rest = np.divmod(np.abs(cents), 100)
    sign = pa.array(np.where(cents < 0, "-", ""), pa.string())
    padded = pc.utf8_lpad(_text(rest), 2, "0")
    return pc.binary_join_element_wise(sign, _text(whole), ".", padded, "")
