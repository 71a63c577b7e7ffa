import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import pytest

from evergreen.decisions.gate import (
    PromotionDemands,
    PromotionEvidence,
    PromotionVerdict,
    decide_promotion,
)
from evergreen.errors import LedgerConflictError, PermanentError
from evergreen.release import ledger
from evergreen.release.promote import project, promote
from tiny_people import FEATURES, declare

HAND = {"actor": "ada", "reason": "because"}


class Registry:
    """The alias, as a registry would keep it."""

    def __init__(self, failures=0):
        self.alias = None
        self.calls = 0
        self.failures = failures

    def set_alias(self, version):
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise ConnectionError("killed between ledger and alias")
        self.alias = version


def test_promotion_appends_and_sets_the_alias(book):
    registry = Registry()
    entry = promote(book, "churn", 1, set_alias=registry.set_alias, **HAND)
    assert (entry.sequence, entry.version, registry.alias) == (1, 1, 1)


def test_a_refused_challenger_is_not_promoted(book):
    evidence = PromotionEvidence(
        date(2026, 3, 1), "churn", 1, datetime(2026, 1, 1, tzinfo=UTC), {}, {}
    )
    demands = PromotionDemands.of(declare({"name": "gone"}, FEATURES))
    verdict = decide_promotion(evidence, demands)
    registry = Registry()
    with pytest.raises(PermanentError, match="gate refused version 1: not measured"):
        promote(book, "churn", 1, verdict=verdict, set_alias=registry.set_alias, **HAND)
    assert ledger.entries(book, "churn") == []
    assert registry.calls == 0


def test_the_verdict_is_stored_with_its_evidence(book):
    verdict = PromotionVerdict("promote", (), ("good",))
    entry = promote(
        book,
        "churn",
        1,
        verdict=verdict,
        evidence={"auc": 0.8},
        set_alias=Registry().set_alias,
        **HAND,
    )
    assert '"auc":0.8' in entry.evidence
    assert '"reasons":["good"]' in entry.evidence


def test_a_crash_between_ledger_and_alias_heals(book):
    registry = Registry()
    promote(book, "churn", 1, set_alias=registry.set_alias, request="a", **HAND)
    registry.failures = 1
    arguments = {"expected_sequence": 1, "request": "b", "set_alias": registry.set_alias, **HAND}
    with pytest.raises(ConnectionError):
        promote(book, "churn", 2, **arguments)
    assert (registry.alias, ledger.champion(book, "churn").version) == (1, 2)
    # The retry of the same task heals it and appends nothing.
    assert promote(book, "churn", 2, **arguments).sequence == 2
    assert registry.alias == 2
    assert len(ledger.entries(book, "churn")) == 2


def test_project_heals_without_a_promotion(book):
    registry = Registry(failures=1)
    assert project(book, "churn", registry.set_alias) is None
    assert registry.calls == 0
    with pytest.raises(ConnectionError):
        promote(book, "churn", 1, set_alias=registry.set_alias, **HAND)
    assert project(book, "churn", registry.set_alias).version == 1
    assert registry.alias == 1


def test_a_late_retry_leaves_the_alias_with_the_newest_champion(book):
    registry = Registry()
    first = {"request": "a", "set_alias": registry.set_alias, **HAND}
    promote(book, "churn", 1, **first)
    promote(book, "churn", 2, set_alias=registry.set_alias, **HAND)
    assert promote(book, "churn", 1, **first).sequence == 1
    assert registry.alias == 2


def test_an_alias_written_late_is_corrected(book):
    registry = Registry()
    with ThreadPoolExecutor(1) as pool:
        others = []

        def slow_set_alias(version):
            # Somebody else appends while we are on our way to the registry, and shows it after us.
            others.append(
                pool.submit(promote, book, "churn", 2, set_alias=registry.set_alias, **HAND)
            )
            while ledger.champion(book, "churn").version == version:
                time.sleep(0.01)
            assert registry.calls == 0
            registry.set_alias(version)

        entry = promote(book, "churn", 1, set_alias=slow_set_alias, **HAND)
        assert (entry.version, others[0].result().version) == (1, 2)
    assert registry.alias == ledger.champion(book, "churn").version == 2


def test_roll_back_and_conflict(book):
    registry = Registry()
    for version in (1, 2):
        promote(book, "churn", version, set_alias=registry.set_alias, **HAND)
    back = promote(book, "churn", 1, action="roll_back", set_alias=registry.set_alias, **HAND)
    assert (back.action, back.previous_version, registry.alias) == ("roll_back", 2, 1)
    with pytest.raises(LedgerConflictError):
        promote(book, "churn", 3, expected_sequence=2, set_alias=registry.set_alias, **HAND)
    assert registry.alias == 1
