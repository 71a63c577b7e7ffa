"""From a use case to proposals: generate, compute, rank, judge, tell."""

from __future__ import annotations

from evergreen.contract import load_use_case, parse_day
from evergreen.discovery.candidates import propose_candidates
from evergreen.discovery.report import tell_outcome
from evergreen.discovery.rows import Tell, newest_day, plan_search, read_rows
from evergreen.discovery.search import search
from evergreen.settings import load_settings
from evergreen.training.fit import Fitter


def discover_features(
    name: str, tell: Tell, day: str | None = None, seed: int | None = None
) -> str:
    """Search for features that the use case would gain by.

    Parameters
    ----------
    name
        Of the use case.
    tell
        Called with sentences on how far the search is.
    day
        The day to search on, `YYYY-MM-DD`; it knows what a training of that day would, but for the
        holdout. By default the newest on which all labels that there are would be known.
    seed
        By default the use case's.

    Returns
    -------
    str
        The report; the same for the same tables, declaration, seed and number of threads.

    Raises
    ------
    NotReadyError
        There are no labels, or the history is too short.
    """
    use_case = load_use_case(name)
    on = parse_day(day, name) if day else newest_day(use_case)
    plan = plan_search(use_case, on)
    candidates, beyond = propose_candidates(use_case)
    left = f", {beyond} more are left out" if beyond else ""
    tell(f"{name} on {on}: {len(candidates)} candidates{left}")
    rows = read_rows(use_case, on, plan, candidates, tell)
    seed = use_case.training.seed if seed is None else seed
    fitter = Fitter(rows.use_case, load_settings().threads, seed)
    outcome = search(rows, plan, use_case.feature_names, fitter, tell)
    return tell_outcome(use_case, candidates, outcome)
