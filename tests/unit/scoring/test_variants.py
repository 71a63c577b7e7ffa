"""Who gets whose score: stable, monotone in the share, and nobody lost."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.contract import UseCase
from evergreen.scoring.score import predictions_schema, rank
from evergreen.scoring.variants import (
    CHALLENGER,
    CHAMPION,
    Split,
    divide,
    of_champion,
    without_split,
)

MOMENT = datetime(2025, 3, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def use_case() -> UseCase:
    dtypes = {"order_id": "string", "buyer": "string", "at": "timestamp"}
    orders = {
        "source": {"kind": "files", "path": "orders.csv"},
        "key": "order_id",
        "timestamp": "at",
        "columns": {
            name: {"source": name, "dtype": dtype, "description": name}
            for name, dtype in dtypes.items()
        },
    }
    return UseCase.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "first_day": "2024-01-01",
            "entity": {"name": "buyer", "key": "buyer"},
            "events": {"orders": orders},
            "features": {"columns": {"orders": {"dtype": "float64", "description": "orders"}}},
            "target": {"name": "gone", "description": "No order.", "horizon_days": 60},
        }
    )


def split(share: float, salt: str = "tiny 2") -> Split:
    return Split(challenger=2, share=share, salt=salt, rollout=5)


def scored(use_case: UseCase, variant: str, seed: int, rows: int = 200) -> pa.Table:
    keys = [f"B{n:04}" for n in range(rows)]
    table = pa.Table.from_pylist(
        [
            {
                "buyer": key,
                "as_of": MOMENT,
                "score": score,
                "rank": 0,
                "band": "high" if score > 0.5 else "low",
                "reasons": [f"{variant} said so"],
                "model_version": 1 if variant == CHAMPION else 2,
                "variant": variant,
                "day": date(2025, 3, 1),
            }
            for key, score in zip(keys, np.random.default_rng(seed).random(rows), strict=True)
        ],
        schema=predictions_schema(use_case),
    )
    return rank(table, use_case)


def test_the_same_customers_are_chosen_on_every_machine() -> None:
    keys = pa.array(["17850", "17851", "C-1", "C-2", "ü", ""])
    assert split(0.5).chooses(keys).to_pylist() == CHOSEN
    numbers = pa.array([17850, 17851])
    assert split(0.5).chooses(numbers).to_pylist() == CHOSEN[:2]


def test_shares_are_what_they_say_and_salts_choose_others() -> None:
    keys = pa.array([f"C{n}" for n in range(100_000)])
    for share in (0.0, 0.1, 0.25, 0.5, 1.0):
        found = pc.sum(split(share).chooses(keys)).as_py() / len(keys)
        assert found == pytest.approx(share, abs=0.005)
    first, second = (split(0.5, salt).chooses(keys) for salt in ("a", "b"))
    both = pc.sum(pc.and_(first, second)).as_py() / len(keys)
    assert both == pytest.approx(0.25, abs=0.01)


@given(
    keys=st.lists(st.text(max_size=12), unique=True, max_size=50),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_who_is_chosen_stays_chosen_as_the_share_grows(
    keys: list[str], shares: list[float]
) -> None:
    before, after = (split(share).chooses(pa.array(keys, pa.string())) for share in shares)
    assert not pc.any(pc.and_(before, pc.invert(after)), min_count=0).as_py()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_everybody_has_one_score_published_and_the_other_kept(
    use_case: UseCase, share: float
) -> None:
    ours, theirs = scored(use_case, CHAMPION, 1), scored(use_case, CHALLENGER, 2)
    published, shadows = divide(ours, theirs, split(share), use_case)
    assert published.schema == predictions_schema(use_case)
    assert published["rank"].to_pylist() == list(range(1, 201))
    assert published["score"].to_pylist() == sorted(published["score"].to_pylist(), reverse=True)
    keys = ours["buyer"]
    chosen = dict(zip(keys.to_pylist(), split(share).chooses(keys).to_pylist(), strict=True))
    for table, is_published in ((published, True), (shadows, False)):
        for row in table.to_pylist():
            expected = CHALLENGER if chosen[row["buyer"]] == is_published else CHAMPION
            assert row["variant"] == expected
            assert row["reasons"] == [f"{expected} said so"]
    assert sorted([*content(published), *content(shadows)]) == sorted(
        [*content(ours), *content(theirs)]
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_taking_scores_back_is_as_if_nobody_had_got_them(use_case: UseCase, share: float) -> None:
    ours, theirs = scored(use_case, CHAMPION, 1), scored(use_case, CHALLENGER, 2)
    found = of_champion(*divide(ours, theirs, split(share), use_case), use_case)
    expected = divide(ours, theirs, split(0.0), use_case)
    assert [table.to_pylist() for table in found] == [table.to_pylist() for table in expected]
    assert found[0].to_pylist() == ours.to_pylist()


def test_receipts_name_the_split_and_days_of_one_version_have_none() -> None:
    inputs = {"features": 7, "model_version": 1}
    assert Split.of(inputs) is None
    both = {**inputs, **split(0.25).to_inputs()}
    assert Split.of(both) == split(0.25)
    assert without_split(both) == inputs


def content(table: pa.Table) -> list[Any]:
    return [(r["buyer"], r["variant"], r["score"], r["band"]) for r in table.to_pylist()]


CHOSEN = [True, False, False, True, True, True]
