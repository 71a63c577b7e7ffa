from __future__ import annotations

import hashlib
from collections import Counter
from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evergreen.contract import load_use_case
from evergreen.errors import SourceError
from evergreen.sources import open_source
from evergreen.sources import simulation as sim
from evergreen.sources.generator import COLUMNS, GeneratorReader
from evergreen.sources.simulation import World
from simulated import CLEAN, FIRST, SEGMENTS, declare, read

# --- one outcome per day -------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-10, 800), min_size=2, max_size=6, unique=True).map(sorted),
    st.integers(0, 3),
)
def test_any_split_of_a_range_gives_the_same_rows(cuts: list[int], seed: int) -> None:
    source = declare(seed=seed, customers=60)
    days = [FIRST + timedelta(days=cut) for cut in cuts]
    whole = read(source, days[0], days[-1])
    # A fresh simulation for every part: what is found must not come out of the cache.
    parts = []
    for start, end in pairwise(days):
        sim.simulate.cache_clear()
        sim.draw_customers.cache_clear()
        parts.append(read(source, start, end))
    assert pa.concat_tables(parts).equals(whole)


def test_a_longer_horizon_only_appends() -> None:
    source = declare(customers=2_000)
    short = sim.simulate(World(source, FIRST), date(2025, 1, 1))
    long = sim.simulate(World(source, FIRST), date(2027, 1, 1))
    kept = len(short.second)
    assert len(long.second) > kept
    for name in ("customer", "number", "second"):
        assert np.array_equal(getattr(short, name), getattr(long, name)[:kept])


def test_more_customers_leave_the_lives_of_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = sim.simulate(World(declare(customers=50), FIRST), date(2025, 1, 1))
    monkeypatch.setattr(sim, "_BLOCK", 40)
    many = sim.simulate(World(declare(customers=90), FIRST), date(2025, 1, 1))
    old = many.customer < 50
    assert np.array_equal(few.second, many.second[old])
    assert np.array_equal(few.customer, many.customer[old])


def test_another_seed_is_another_world() -> None:
    one, other = (read(declare(seed=seed), FIRST, date(2024, 6, 1)) for seed in (1, 2))
    assert one["ordered_at"].to_pylist() != other["ordered_at"].to_pylist()


def test_rows_are_the_days_in_order_with_stable_numbers() -> None:
    table = read(declare(), date(2024, 11, 1), date(2024, 11, 8))
    days = table["_day"].to_pylist()
    assert days == sorted(days)
    assert len(set(days)) == 7
    for day, size in Counter(days).items():
        part = table.filter(pa.array([found == day for found in days]))
        assert part["_row"].to_pylist() == list(range(1, size + 1))
        assert set(part["_source"].to_pylist()) == {f"generator:7/{day}"}
    for row in table.to_pylist():
        assert row["ordered_at"].startswith(row["_day"].isoformat())
        assert row["ordered_at"].endswith("Z")


ZONES = ["Europe/Berlin", "America/New_York", "Pacific/Auckland", "Asia/Kolkata"]


@pytest.mark.parametrize("zone", ["UTC", *ZONES])
def test_days_are_those_of_the_zone_whatever_range_is_asked_for(zone: str) -> None:
    # Over both changes of the clock and the turn of a year, where simulations end.
    for start in (date(2024, 3, 25), date(2024, 10, 1), date(2024, 10, 23), date(2024, 12, 28)):
        days = [start + timedelta(days=n) for n in range(10)]
        whole = read(declare(), days[0], days[-1], zone)
        alone = [read(declare(), day, day + timedelta(days=1), zone) for day in days[:-1]]
        assert pa.concat_tables(alone).equals(whole)
        for row in whole.to_pylist():
            assert row["_source"] == f"generator:7/{row['_day']}"
            if "T25" not in row["ordered_at"]:
                instant = datetime.fromisoformat(row["ordered_at"])
                assert instant.astimezone(ZoneInfo(zone)).date() == row["_day"]


@pytest.mark.parametrize("zone", ZONES)
def test_the_first_customers_and_the_change_come_with_local_days(zone: str) -> None:
    early = FIRST - timedelta(days=3)
    assert read(declare(), early, FIRST, zone).num_rows == 0
    segments = [{"name": "x", "share": 1.0, "r": 500, "alpha": 500, "a": 0.001, "b": 1000}]
    change = {"day": "2024-02-01", "spend": 1000.0}
    source = declare(
        acquisition_days=1, segments=segments, regime_change=change, dirt=CLEAN, customers=100
    )
    for row in read(source, date(2024, 1, 30), date(2024, 2, 3), zone).to_pylist():
        assert (float(row["amount_eur"]) > 1000) == (row["_day"] >= date(2024, 2, 1))


def test_days_of_utc_are_what_they_were() -> None:
    # Across the change of habits.
    table = read(declare(), date(2025, 2, 1), date(2025, 3, 1))
    text = "\n".join(str(row) for row in table.to_pylist())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "2114f6c7b67bfdaf"


def test_days_without_customers_are_empty_but_have_columns() -> None:
    table = read(declare(), date(2023, 1, 1), FIRST)
    assert table.num_rows == 0
    assert table.schema.names[:6] == list(COLUMNS)


def test_a_contract_that_asks_for_more_is_refused() -> None:
    with pytest.raises(SourceError, match=r"lacks columns \['price'\]"):
        GeneratorReader(World(declare(), FIRST), ("price",)).read(FIRST, FIRST)


# --- what is simulated ---------------------------------------------------------------------------


def test_uniforms_are_uniform_and_independent_across_streams() -> None:
    ids = np.arange(50_000)
    ones = np.ones_like(ids)
    samples = [
        sim.uniforms(7, sim.Draw.GAP, ids, ones),
        sim.uniforms(7, sim.Draw.GAP, ids, 2 * ones),
        sim.uniforms(7, sim.Draw.DEATH, ids, ones),
        sim.uniforms(8, sim.Draw.GAP, ids, ones),
        sim.uniforms(7, sim.Draw.GAP, 0 * ids, ids),
    ]
    for sample in samples:
        assert 0 < sample.min() < sample.max() < 1
        assert stats.kstest(sample, "uniform").pvalue > 1e-3
    correlations = np.corrcoef([*samples, np.roll(samples[0], 1)])
    assert np.abs(correlations - np.eye(6)).max() < 0.02


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 0.99),
    st.one_of(st.just(np.inf), st.floats(19_000, 22_000)),
    st.floats(0.05, 5),
    st.lists(st.floats(18_000, 25_000), min_size=1, max_size=20),
)
def test_the_clock_runs_back_as_it_runs_forward(
    amplitude: float, change: float, rate: float, days: list[float]
) -> None:
    clock = sim.Clock(amplitude, change, rate)
    at = np.sort(np.array(days))
    elapsed = clock.elapsed(at)
    assert np.all(np.diff(elapsed) >= 0)
    assert clock.at(elapsed) == pytest.approx(at, abs=1e-6)


def test_purchases_follow_season_and_regime() -> None:
    segments = [{"name": "x", "share": 1.0, "r": 500, "alpha": 5000, "a": 0.001, "b": 1000}]
    change = {"day": "2026-06-01", "purchase_rate": 0.5}
    source = declare(customers=800, acquisition_days=1, segments=segments, regime_change=change)
    second = sim.simulate(World(source, FIRST), date(2027, 1, 1)).second

    def per_day(start: date, end: date) -> float:
        low, high = (sim.days_since_epoch(day) * sim.DAY_SECONDS for day in (start, end))
        return float(((second >= low) & (second < high)).sum() / (end - start).days)

    # 800 customers, 0.1 purchases a day, times 1 +- 0.4 around the peak of 5 December.
    assert per_day(date(2024, 11, 20), date(2024, 12, 20)) == pytest.approx(112, rel=0.04)
    assert per_day(date(2025, 5, 22), date(2025, 6, 20)) == pytest.approx(48, rel=0.06)
    assert per_day(date(2026, 6, 1), date(2026, 6, 20)) == pytest.approx(24, rel=0.1)


def test_latent_states_follow_their_distributions() -> None:
    (often, _) = SEGMENTS
    source = declare(customers=40_000, segments=[{**often, "share": 1.0}])
    customers = sim.draw_customers(World(source, FIRST))
    assert stats.kstest(customers.rate, stats.gamma(2, scale=1 / 40).cdf).pvalue > 1e-3
    assert stats.kstest(customers.drop_out, stats.beta(1, 6).cdf).pvalue > 1e-3
    nu = stats.gamma(4, scale=1 / 15)
    assert stats.kstest(1 / customers.spend_scale, nu.cdf).pvalue > 1e-3
    assert customers.joined.min() >= sim.days_since_epoch(FIRST)
    assert customers.joined.max() < sim.days_since_epoch(FIRST) + 300


def test_drop_out_and_spend_are_as_declared_before_and_after_the_change() -> None:
    segments = [{"name": "x", "share": 1.0, "r": 50, "alpha": 500, "a": 2000, "b": 8000}]
    source = declare(customers=20_000, acquisition_days=800, segments=segments, dirt=CLEAN)
    purchases = sim.simulate(World(source, FIRST), date(2027, 1, 1))
    at = purchases.second / sim.DAY_SECONDS
    customers = sim.draw_customers(World(source, FIRST))
    stays = sim.survives(World(source, FIRST), customers, purchases.customer, purchases.number, at)
    after = at >= sim.days_since_epoch(date(2025, 2, 15))
    assert 1 - stays[~after].mean() == pytest.approx(0.2, abs=0.01)
    assert 1 - stays[after].mean() == pytest.approx(0.6, abs=0.01)
    # Mean spend of the gamma-gamma model: p * gamma / (q - 1) = 30, halved by the change.
    before = read(source, date(2024, 6, 1), date(2025, 2, 15))["amount_eur"]
    later = read(source, date(2025, 2, 15), date(2025, 10, 1))["amount_eur"]
    assert np.mean([float(text) for text in before.to_pylist()]) == pytest.approx(30, rel=0.03)
    assert np.mean([float(text) for text in later.to_pylist()]) == pytest.approx(15, rel=0.03)


def test_dirt_comes_in_its_shares_and_duplicates_are_exact() -> None:
    source = declare(customers=20_000)
    table = read(source, FIRST, date(2024, 7, 1)).drop_columns(["_row"])
    rows = Counter(tuple(row.values()) for row in table.to_pylist())
    assert set(rows.values()) == {1, 2}
    distinct = [dict(zip(table.schema.names, row, strict=True)) for row in rows]
    assert len({row["order_id"] for row in distinct}) == len(distinct)
    amounts = np.array([float(row["amount_eur"]) for row in distinct])

    def share(flags: list[bool]) -> float:
        return float(np.mean(flags))

    assert share([count == 2 for count in rows.values()]) == pytest.approx(0.2, abs=0.01)
    assert share([row["customer_id"] is None for row in distinct]) == pytest.approx(0.1, abs=0.01)
    assert share(list(amounts <= 0)) == pytest.approx(0.1, abs=0.01)
    assert share([row["status"] == "cancelled" for row in distinct]) == pytest.approx(0.1, abs=0.01)
    unparsable = ["T25:61" in row["ordered_at"] for row in distinct]
    assert share(unparsable) == pytest.approx(0.1, abs=0.01)
    assert (amounts == 0).any()
    assert (amounts < 0).any()


# --- the use case that ships ---------------------------------------------------------------------


def test_the_churn_base_has_the_size_and_shape_the_documentation_promises() -> None:
    use_case = load_use_case("churn")
    source = open_source(use_case.events["orders"])
    assert isinstance(source, GeneratorReader)
    chunks = list(source.read(use_case.first_day, date(2026, 1, 1)))
    assert max(chunk.num_rows for chunk in chunks) <= 65_536
    orders = pa.concat_tables(chunks)
    assert len(set(orders["customer_id"].to_pylist()) - {None}) >= 5_000
    december = [day for day in orders["_day"].to_pylist() if day >= date(2025, 12, 1)]
    assert 100 <= len(december) / 31 <= 280
