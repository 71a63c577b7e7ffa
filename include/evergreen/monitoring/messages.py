"""What alerts say: what it is and how bad, since when, what follows, what to do, where to look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from evergreen.contract import Period, UseCase
from evergreen.decisions.alerts import News, Night, Training
from evergreen.provenance import commands

# Title and text.
Message = tuple[str, str]

_BEGUN = {
    "incident": "bad data",
    "drift": "drift",
    "degradation": "the champion has become worse",
}
_OVER = {
    "incident": "the data are right again",
    "drift": "drift is over",
    "degradation": "the champion is as good as it should be",
}


def render_change(
    use_case: UseCase, news: News, night: Night, mend: Sequence[str] = (), link: str = ""
) -> Message:
    """Return title and text of what the governor's night tells.

    Parameters
    ----------
    mend
        Commands that make again what was bad on the night.
    link
        A page to look at; left out if empty.
    """
    name, day = use_case.name, night.day
    if news.event == "over":
        title = _OVER[news.concern]
        lines = [f"It had lasted since the night of {news.since}."]
    elif news.concern == "retraining":
        title = f"retraining is requested, because of {night.verdict.trigger}"
        lines = [
            *(f"What: {why}" for why in _reasons(night, *night.verdict.triggers)),
            f"What follows: {name}_train runs for {day} (unless it is paused); the gate decides.",
        ]
    else:
        title = _BEGUN[news.concern]
        lines = [
            *_what(news, night),
            f"Since: the night of {news.since}",
            *_what_follows(night),
            "What to do: " + "\n  ".join(_what_to_do(use_case, news, night, mend)),
        ]
    return _message(f"{name}, night of {day}: {title}", lines, link)


def render_training(use_case: UseCase, ended: Training, link: str = "") -> Message:
    """Return title and text of how a training ended, and of what follows by `gate.mode`."""
    train = f"{use_case.name}_train"
    lines = [f"What: {reason}" for reason in ended.reasons]
    if ended.version is None:
        what = "failed"
        lines.append(f"What to do: mend the cause, then clear the failed run of {train}.")
    else:
        by_hand = commands.put_in_charge(use_case.name, "promote", ended.version, "the reason")
        passed = {
            "auto": "it becomes the champion.",
            "approve": f"it waits for a person's approval, in the run of {train}.",
            "shadow": f"nothing. To put it in charge: {by_hand}",
        }
        is_yes = ended.decision == "promote"
        what = f"version {ended.version} {'passes' if is_yes else 'is refused by'} the gate"
        follows = passed[use_case.gate.mode] if is_yes else "the champion stays in charge."
        lines.append(f"What follows: {follows}")
        lines.append(f"What to read: {commands.show_card(use_case.name, ended.version)}")
    return _message(f"{use_case.name}, training of {ended.day}: {what}", lines, link)


def _what(news: News, night: Night) -> Iterator[str]:
    evidence = night.evidence
    if news.concern == "incident":
        yield from (f"What: {incident}" for incident in evidence.incidents)
        return
    yield from (f"What: {why}" for why in _reasons(night, news.concern))
    if news.concern == "drift":
        for change in night.drifts:
            yield f"What: {', '.join(change.what)} changed about {change.began}"
        for seen in evidence.nights:
            if seen.day == night.day and seen.what:
                share = "" if seen.weight is None else f", {seen.weight:.0%} of the importance"
                yield f"How bad: {len(seen.drifted)} of {seen.tested} columns drifted{share}"


def _what_follows(night: Night) -> Iterator[str]:
    verdict = night.verdict
    if verdict.decision == "retrain":
        yield "What follows: retraining is requested"
    elif verdict.learnable_from:
        yield (
            f"What follows: the champion goes on; retraining is asked for on "
            f"{verdict.learnable_from}, the first day on which the change can be learned"
        )
    else:
        yield f"What follows: nothing is retrained yet ({', '.join(verdict.blocks) or 'no need'})"


def _what_to_do(use_case: UseCase, news: News, night: Night, mend: Sequence[str]) -> Sequence[str]:
    if news.concern == "incident":
        return ["mend what is bad, then run the night again:", *mend]
    if news.concern == "degradation":
        by_hand = commands.run_day(f"{use_case.name}_train", night.day)
        return ["look at the slices in the night's report; to train now, by hand:", by_hand]
    began = min((change.began for change in night.drifts), default=news.since)
    days = Period(began, night.day + timedelta(days=1))
    again = commands.backfill(use_case.base or use_case.name, days, "completed")
    return ["if it is a fault of the data, mend it at its source and load the days again:", again]


def _reasons(night: Night, *triggers: str) -> Iterator[str]:
    for reason in night.verdict.reasons:
        trigger, _, why = reason.partition(": ")
        if trigger in triggers:
            yield why


def _message(title: str, lines: Sequence[str], link: str) -> Message:
    return title, "\n".join([*lines, *([f"Where: {link}"] if link else [])])
