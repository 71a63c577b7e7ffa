from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score

from evergreen.contract import Events, FilesSource, GeneratorSource, as_of, load_use_case
from evergreen.errors import ConfigError
from evergreen.sources.bounds import oracle_no_purchase, posterior_no_purchase, removed_share
from evergreen.sources.generator import COLUMNS
from evergreen.sources.simulation import DAY_SECONDS, World, clock_of, drop_out_at
from simulated import CLEAN, DIRTY, FIRST, declare, orders_from, read

Bound = Callable[[Events, datetime, int], pa.Table]
BOUNDS: list[Bound] = [oracle_no_purchase, posterior_no_purchase]
# Amounts tell these apart, and single orders of them mean different things.
SPENDERS = [
    {"name": "faithful", "share": 0.4, "r": 3.0, "alpha": 90.0, "a": 0.5, "b": 9.0, "gamma": 60.0},
    {"name": "fickle", "share": 0.6, "r": 2.0, "alpha": 60.0, "a": 2.0, "b": 4.0, "p": 3.0},
]


# --- the oracle ----------------------------------------------------------------------------------


def valid_orders(
    source: GeneratorSource, start: date, end: date
) -> dict[str, list[tuple[float, float]]]:
    """By customer, the valid orders in [start, end): days since 1970-01-01, and amount."""
    orders: dict[str, set[tuple[float, float]]] = {}
    for row in read(source, start, end).select(COLUMNS).to_pylist():
        amount = float(row["amount_eur"])
        if (
            row["customer_id"]
            and amount > 0
            and row["status"] == "completed"
            and "T25" not in row["ordered_at"]
        ):
            at = datetime.fromisoformat(row["ordered_at"]).timestamp() / DAY_SECONDS
            orders.setdefault(row["customer_id"], set()).add((at, amount))
    return {customer: sorted(known) for customer, known in orders.items()}


def valid_purchases(source: GeneratorSource, start: date, end: date) -> set[str]:
    return set(valid_orders(source, start, end))


@pytest.mark.parametrize(
    "as_of",
    [date(2024, 9, 1), date(2025, 1, 1), date(2025, 3, 1)],
    ids=["before", "across", "after"],
)
def test_the_oracle_is_calibrated(as_of: date) -> None:
    source = declare(customers=20_000)
    instant = datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC)
    truth = oracle_no_purchase(orders_from(source), instant, 90)
    customers = truth["customer_id"].to_pylist()
    probability = truth["probability"].to_numpy()
    assert set(customers) == valid_purchases(source, FIRST, as_of)

    buyers = valid_purchases(source, as_of, as_of + timedelta(days=90))
    outcome = np.array([customer not in buyers for customer in customers], float)
    # Those who left buy nothing, without exception.
    assert outcome[probability == 1.0].all()

    assert_calibrated(probability, outcome)
    open_cases = probability < 1.0
    order = np.argsort(probability[open_cases])
    for part in np.array_split(order, 10):
        assert_calibrated(probability[open_cases][part], outcome[open_cases][part])


def assert_calibrated(probability: np.ndarray[Any, Any], outcome: np.ndarray[Any, Any]) -> None:
    """The mean outcome lies within four standard errors of the mean probability."""
    error = np.sqrt((probability * (1 - probability)).sum()) / len(probability)
    assert len(outcome) > 100
    assert abs(outcome.mean() - probability.mean()) < 4 * error + 1e-9


def test_the_oracle_sees_the_regime_change_only_inside_the_horizon() -> None:
    instant = datetime(2025, 1, 1, tzinfo=UTC)
    calm = declare(regime_change=None)
    means = {
        (name, days): np.mean(
            oracle_no_purchase(orders_from(source), instant, days)["probability"].to_numpy()
        )
        for name, source in (("change", declare()), ("calm", calm))
        for days in (45, 90)
    }
    # 45 days from 1 January end on 15 February, where the change begins.
    assert means["change", 45] == means["calm", 45]
    assert means["change", 90] > means["calm", 90] + 0.01


def test_the_removed_share_is_that_of_rows_with_any_fault() -> None:
    assert removed_share(declare()) == pytest.approx(1 - 0.9**4)


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_need_a_generator_an_instant_and_a_horizon(bound: Bound) -> None:
    instant = datetime(2025, 1, 1, tzinfo=UTC)
    orders = orders_from(declare(customers=10))
    with pytest.raises(ConfigError, match="without a zone"):
        bound(orders, instant.replace(tzinfo=None), 90)
    with pytest.raises(ConfigError, match="horizon_days is 0"):
        bound(orders, instant, 0)
    files = orders_from(FilesSource(kind="files", path="x.csv"))
    with pytest.raises(ConfigError, match=r"events\.orders.*'files'; only a generator"):
        bound(files, instant, 90)


def test_a_horizon_ends_at_a_local_midnight() -> None:
    orders = orders_from(declare(regime_change=None), "Europe/Berlin")
    # 23 hours, over the change of the clock.
    day = date(2024, 3, 30)
    truth = oracle_no_purchase(orders, as_of(day, "Europe/Berlin"), 1)
    longer = oracle_no_purchase(orders_from(declare(regime_change=None)), as_of(day), 1)
    shared = set(truth["customer_id"].to_pylist()) & set(longer["customer_id"].to_pylist())
    for customer in shared:
        local, utc = (
            table.filter(pc.equal(table["customer_id"], customer))["probability"][0].as_py()
            for table in (truth, longer)
        )
        assert local == utc == 1.0 or np.log(local) / np.log(utc) == pytest.approx(
            23 / 24, rel=0.01
        )


@pytest.mark.parametrize("bound", BOUNDS)
def test_everything_removed_means_nothing_is_ever_seen(bound: Bound) -> None:
    source = declare(dirt={**CLEAN, "cancelled": 1.0})
    answer = bound(orders_from(source), datetime(2025, 1, 1, tzinfo=UTC), 90)
    assert answer.num_rows == 0
    assert answer.column_names == ["customer_id", "probability"]


# --- the posterior -------------------------------------------------------------------------------


def at_midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def values(answer: pa.Table) -> np.ndarray[Any, Any]:
    return np.asarray(answer["probability"].to_numpy())


@pytest.mark.parametrize(
    ("day", "purchase_rate"),
    [
        (date(2024, 9, 1), 1.5),
        (date(2025, 4, 1), 0.3),
        (date(2025, 4, 1), 1.5),
        (date(2025, 12, 1), 1.5),
    ],
    ids=["before", "after less often", "after more often", "long after"],
)
def test_the_posterior_is_the_mean_of_the_oracle_over_equal_histories(
    day: date, purchase_rate: float
) -> None:
    # After the change one leaves sooner, and spends like the others.
    change = {"day": "2025-02-15", "purchase_rate": purchase_rate, "drop_out": 3.0, "spend": 0.2}
    source = declare(customers=20_000, segments=SPENDERS, regime_change=change)
    table, instant = orders_from(source), at_midnight(day)
    truth, answer = (bound(table, instant, 90) for bound in BOUNDS)
    assert answer["customer_id"].equals(truth["customer_id"])
    oracle, posterior = values(truth), values(answer)
    assert 0 < posterior.min() < posterior.max() <= 1
    # Spread as widely as the bins that follow can only be if it tells histories apart.
    assert np.ptp(posterior) > 0.6

    orders = valid_orders(source, FIRST, day)
    histories = [orders[customer] for customer in answer["customer_id"].to_pylist()]
    opens, changed = (World(source, FIRST).begin_of(at) for at in (FIRST, date(2025, 2, 15)))
    first = np.array([history[0][0] for history in histories])
    count = np.array([len(history) for history in histories])
    since = np.array([sum(at >= changed for at, _ in history) for history in histories])
    spends = np.array([np.mean([amount for _, amount in history]) > 30 for history in histories])
    parts = [
        *np.array_split(np.argsort(posterior), 10),
        np.flatnonzero(count > 5),
        np.flatnonzero(first < opens + 30),
        np.flatnonzero((count == 1) & spends),
        np.flatnonzero((count == 1) & ~spends),
    ]
    assert min(len(part) for part in parts) > 100
    if day > date(2025, 2, 15):
        parts += [
            np.flatnonzero(first > opens + 300),
            np.flatnonzero((since == 0) & (count > 1)),
            np.flatnonzero(since > 2),
            np.flatnonzero((since == count) & spends),
            np.flatnonzero((since == count) & ~spends),
        ]
    buyers = valid_purchases(source, day, day + timedelta(days=90))
    outcome = np.array([c not in buyers for c in answer["customer_id"].to_pylist()], float)
    for part in parts:
        excess = (oracle - posterior)[part]
        assert abs(excess.mean()) < 4 * excess.std() / np.sqrt(len(part))
        if len(part) > 100:
            assert_calibrated(posterior[part], outcome[part])


def test_the_truth_ranks_better_than_the_posterior_and_that_better_than_recency() -> None:
    churn = load_use_case("churn").events["orders"].source
    assert isinstance(churn, GeneratorSource)
    source, day = churn.model_copy(update={"customers": 20_000}), date(2025, 10, 8)
    table, instant = orders_from(source), at_midnight(day)
    truth, answer = (bound(table, instant, 90) for bound in BOUNDS)
    buyers = valid_purchases(source, day, day + timedelta(days=90))
    stays_away = [c not in buyers for c in answer["customer_id"].to_pylist()]
    orders = valid_orders(source, FIRST, day)
    silence = [-orders[customer][-1][0] for customer in answer["customer_id"].to_pylist()]
    oracle, posterior, recency = (
        roc_auc_score(stays_away, scores) for scores in (values(truth), values(answer), silence)
    )
    assert oracle > posterior + 0.02
    assert posterior > recency + 0.02


def test_without_season_dirt_and_change_the_posterior_is_the_textbook_formula() -> None:
    r, alpha, a, b = 2.0, 40.0, 1.0, 6.0
    segment = {"name": "x", "share": 1.0, "r": r, "alpha": alpha, "a": a, "b": b}
    source = declare(segments=[segment], season=0.0, regime_change=None, dirt=CLEAN)
    day = date(2024, 10, 1)
    answer = posterior_no_purchase(orders_from(source), at_midnight(day), 90)
    orders = valid_orders(source, FIRST, day)
    end = World(source, FIRST).begin_of(day)
    for customer, found in zip(answer["customer_id"].to_pylist(), values(answer), strict=True):
        days = [at for at, _ in orders[customer]]
        repeats, recency, age = len(days) - 1, days[-1] - days[0], end - days[0]
        # MBG/NBD (Batislam, Denizel & Filiztekin 2007): as BG/NBD, but one may leave at once.
        power = r + repeats
        gone = a / (b + repeats) * ((alpha + age) / (alpha + recency)) ** power
        silent = ((alpha + age) / (alpha + age + 90)) ** power
        assert found == pytest.approx((gone + silent) / (gone + 1), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("day", [date(2024, 12, 1), date(2025, 6, 1)], ids=["before", "after"])
def test_the_posterior_is_what_simulated_lives_with_the_same_orders_give(day: date) -> None:
    source = declare(customers=2_000)
    answer = posterior_no_purchase(orders_from(source), at_midnight(day), 90)
    found = dict(zip(answer["customer_id"].to_pylist(), values(answer), strict=True))
    # A change that has not begun is not known.
    world = World(source, FIRST)
    if day < date(2025, 2, 15):
        world = World(source.model_copy(update={"regime_change": None}), FIRST)
    begin, closes = (world.begin_of(at) for at in (day, FIRST + timedelta(days=300)))
    histories = {
        customer: [at for at, _ in orders]
        for customer, orders in valid_orders(source, FIRST, day).items()
        if len(orders) < 8
    }
    since = {c: sum(at >= world.changed_at for at in days) for c, days in histories.items()}
    few = [customer for customer, days in histories.items() if len(days) <= 4]
    late = [customer for customer, days in histories.items() if days[0] > closes]
    busy = [customer for customer, count in since.items() if count > 2]
    assert late
    assert bool(busy) == (world.source.regime_change is not None)
    for customer in {*few[:4], *late[:2], *busy[:3]}:
        share, error = simulated_no_purchase(world, histories[customer], begin, begin + 90)
        assert error < 0.02
        assert found[customer] == pytest.approx(share, abs=4 * error)


def simulated_no_purchase(
    world: World, orders: list[float], begin: float, end: float
) -> tuple[float, float]:
    """P(no valid purchase in [begin, end) | orders) and its standard error, by importance sampling.

    Lives are drawn from the prior and weighed by the density of the orders given what was drawn,
    the purchases that dirt removed included.
    """
    rng, size, clock = np.random.default_rng(5), 100_000, clock_of(world)
    removed, segments = removed_share(world.source), world.source.segments
    shares = np.array([s.share for s in segments])
    kind = rng.choice(len(segments), size, p=shares / shares.sum())
    r, alpha, a, b = (
        np.array([getattr(s, n) for s in segments])[kind] for n in ["r", "alpha", "a", "b"]
    )
    rate, drop_out = rng.gamma(r) / alpha, rng.beta(a, b)

    def stays(at: Any) -> np.ndarray[Any, Any]:
        return rng.uniform(size=size) >= drop_out_at(world, drop_out, at)

    def cross(start: Any, stop: float) -> np.ndarray[Any, Any]:
        """Density of the next valid order at `stop`, 0 for those who leave unseen before it."""
        marks = [clock.elapsed(np.asarray(t, float)) for t in (start, stop)]
        unseen = rng.poisson(rate * removed * (marks[1] - marks[0]))
        there = np.ones(size, dtype=bool)
        for number in range(unseen.max()):
            # Given their number, they lie evenly on the business clock.
            at = clock.at(marks[0] + rng.uniform(size=size) * (marks[1] - marks[0]))
            there &= stays(at) | (number >= unseen)
        density = rate * (1 - removed)
        return there * density * np.exp(-density * (marks[1] - marks[0]))

    # Half of the lives join with the first order seen, half with a removed one before it.
    opens = world.begin_of(world.first_day)
    closes = opens + world.source.acquisition_days
    latest = min(orders[0], closes)
    joined = opens + rng.uniform(size=size) * (latest - opens)
    unseen_first = removed * (latest - opens) * stays(joined) * cross(joined, orders[0])
    seen_first = (1 - removed) * (orders[0] < closes)
    weight = np.where(np.arange(size) % 2, unseen_first, seen_first)
    for start, stop in pairwise(orders):
        weight = weight * stays(start) * cross(start, stop)

    # On from the last order, one purchase after the other, until a valid one.
    at, looking = np.full(size, orders[-1]), np.ones(size, dtype=bool)
    while looking.any():
        stay = stays(at)
        later = clock.at(clock.elapsed(at) + rng.exponential(size=size) / rate)
        at = np.where(looking, np.where(stay, later, end), at)
        looking &= stay & (at < end) & (rng.uniform(size=size) < removed)
    silent = weight * (at >= begin)
    share = float((silent * (at >= end)).sum() / silent.sum())
    deviation = silent * ((at >= end) - share)
    return share, float(np.sqrt((deviation**2).sum()) / silent.sum())


@pytest.mark.parametrize("dirt", [CLEAN, DIRTY], ids=["clean", "dirty"])
def test_without_season_more_silence_never_makes_a_purchase_likelier(dirt: Any) -> None:
    source = declare(customers=1_000, season=0.0, regime_change=None, dirt=dirt, segments=SPENDERS)
    day = date(2024, 9, 1)
    earlier, fell = None, 0
    for days in range(0, 120, 20):
        later = day + timedelta(days=days)
        buyers = valid_purchases(source, day, later) if days else set()
        answer = posterior_no_purchase(orders_from(source), at_midnight(later), 90)
        now = {
            customer: probability
            for customer, probability in zip(
                answer["customer_id"].to_pylist(), values(answer), strict=True
            )
            if customer not in buyers
        }
        if earlier is not None:
            silent = [customer for customer in now if customer in earlier]
            assert len(silent) > 100
            assert all(now[customer] >= earlier[customer] - 1e-9 for customer in silent)
            fell += sum(now[customer] > earlier[customer] + 0.01 for customer in silent)
        earlier = now
    assert fell > 100


def test_the_posterior_knows_a_change_of_habits_once_it_has_begun() -> None:
    calm, changing = declare(regime_change=None), declare()
    for day, known in ((date(2025, 2, 14), False), (date(2025, 2, 15), True)):
        # Orders so far are the same; the horizon holds the change on both days.
        means = [
            values(posterior_no_purchase(orders_from(source), at_midnight(day), 90)).mean()
            for source in (calm, changing)
        ]
        assert (means[1] > means[0] + 0.05) == known
        assert known or means[1] == means[0]
