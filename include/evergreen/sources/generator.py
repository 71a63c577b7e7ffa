"""Orders of a simulated customer base.

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
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergreen.sources.base import CHUNK_ROWS, check_columns, chunked, days_between, raw_table
from evergreen.sources.simulation import (
    DAY_SECONDS,
    Draw,
    Floats,
    Ints,
    Purchases,
    World,
    days_since_epoch,
    horizon_after,
    paid,
    simulate,
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
        purchases = purchases[part]
        customer, number, second = purchases.customer, purchases.number, purchases.second
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
            "amount_eur": _money(self._amounts(purchases)),
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

    def _amounts(self, purchases: Purchases) -> Floats:
        """Amounts in eur as they are delivered, dirt included."""
        amounts = paid(self.world, purchases)
        source = self.world.source
        share = source.dirt.non_positive_amount
        draw = uniforms(source.seed, Draw.NON_POSITIVE, purchases.customer, purchases.number)
        amounts = np.where(draw < share, -amounts, amounts)
        return np.where(draw < share / 2, 0.0, amounts)


def _text(numbers: Ints) -> Any:
    return pa.array(numbers).cast(pa.string())


def _money(amounts: Floats) -> Any:
    """Two decimals, as a cash register prints them."""
    cents = np.round(amounts * 100).astype(np.int64)
    whole, rest = np.divmod(np.abs(cents), 100)
    sign = pa.array(np.where(cents < 0, "-", ""), pa.string())
    padded = pc.utf8_lpad(_text(rest), 2, "0")
    return pc.binary_join_element_wise(sign, _text(whole), ".", padded, "")
