"""Stages whose work may be split: one task, or a plan and a mapped task for each shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.sdk import chain, task

from conventions import RUN
from evergreen import steps
from evergreen.contract import UseCase

Step = Callable[..., dict[str, Any]]


def compute_features(
    use_case: UseCase,
    period: str,
    guard: Callable[[Step], Step] = lambda step: step,
    **options: Any,
) -> Any:
    """Compute the features of a period; what comes of it is validated."""
    if use_case.shards == 1:
        return task(guard(steps.compute_features), **options)(use_case.name, period, RUN)
    planned = task(guard(steps.plan_features), **options)(use_case.name, period, RUN)
    return _by_shards(use_case, steps.compute_features_of, planned)


def publish_labels(use_case: UseCase, published: Any, **options: Any) -> None:
    """Publish the labels that a period completes."""
    if use_case.shards == 1:
        task(steps.publish_labels, **options)(published)
        return
    planned = task(steps.plan_labels, **options)(published, RUN)
    task(steps.publish_labels)(published, _by_shards(use_case, steps.compute_labels_of, planned))


def score_customers(use_case: UseCase, resolved: Any, wanted: Any = None) -> Any:
    """Score a day, if it is `wanted`; what comes of it is validated."""
    if use_case.shards == 1:
        begin = staged = task(steps.score_customers)(resolved, RUN)
    else:
        begin = task(steps.plan_scores)(resolved, RUN)
        staged = _by_shards(use_case, steps.score_customers_of, begin)
    if wanted:
        chain(wanted, begin)
    return staged


def _by_shards(use_case: UseCase, step: Step, planned: Any) -> Any:
    return task(step).partial(planned=planned).expand(shard=list(range(use_case.shards)))
