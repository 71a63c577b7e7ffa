"""The models that answer, as the ledger names them now."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from evergreen.contract import UseCase
from evergreen.errors import EvergreenError, NotReadyError
from evergreen.release import ledger
from evergreen.release.rollout import rolling
from evergreen.scoring.variants import Split
from evergreen.training.compatibility import require_fit
from evergreen.training.model import LoadedModel
from evergreen.training.tracking import load_version

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InCharge:
    """Who answers.

    Parameters
    ----------
    head
        Hash of the ledger's last entry when it was looked at.
    champion
        Its model.
    challenger, split
        Of a rollout that is on, and who gets its scores; None without one, or if it cannot score.
    """

    head: str
    champion: LoadedModel
    challenger: LoadedModel | None = None
    split: Split | None = None


def load(use_case: UseCase, before: InCharge | None = None) -> InCharge:
    """Load the models that the ledger names; those of `before` that still answer are kept.

    Raises
    ------
    NotReadyError
        There is no champion, or its model is gone or reads what is not declared any more.
    ServiceDownError
        A database or the tracking store does not answer.
    """
    book = ledger.engine()
    head = ledger.newest_hash(book, use_case.name)
    if before and before.head == head:
        return before
    champion = ledger.champion(book, use_case.name)
    if champion is None:
        raise NotReadyError(f"{use_case.name} has no champion yet. Train and promote one.")
    known = {m.version: m for m in (before.champion, before.challenger) if m} if before else {}
    ours = known.get(champion.version) or _load(use_case, champion.version)
    found = rolling(book, use_case.name)
    if found is None:
        return InCharge(head, ours)
    try:
        theirs = known.get(found.challenger) or _load(use_case, found.challenger)
    except EvergreenError as error:
        # Nobody is without a score for that; the night stops the rollout.
        logger.warning(
            "version %d, which is rolled out, does not answer: %s", found.challenger, error
        )
        return InCharge(head, ours)
    split = Split(found.challenger, found.share, found.salt, found.began)
    return InCharge(head, ours, theirs, split)


def _load(use_case: UseCase, version: int) -> LoadedModel:
    model = load_version(use_case, version)
    require_fit(use_case, version, model)
    return model
