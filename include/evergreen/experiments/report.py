"""An experiment, told: its effect, its plan, and uplift by decile as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evergreen import lake
from evergreen.contract import UseCase, load_use_case
from evergreen.errors import NotReadyError
from evergreen.experiments.effect import ALL, ALPHA, POWER, Effect
from evergreen.experiments.night import describe, plan, require_experiment
from evergreen.provenance import receipts


def show(name: str, night: date | None, plot: str | None) -> None:
    """Print what an experiment has shown by a night, and draw it if asked to.

    Raises
    ------
    NotReadyError
        No night has measured it.
    """
    use_case = load_use_case(name)
    experiment = require_experiment(use_case)
    night, effects = _measured(use_case, night)
    console = Console()
    title = f"{experiment.name} of {name}: {experiment.outcome}, as known on {night}"
    table = Table("slice", "adjusted", "held out", "treated", "effect", "from", "to", title=title)
    for effect in effects:
        numbers = (effect.effect, effect.lower, effect.upper)
        table.add_row(
            effect.slice,
            "yes" if effect.adjusted else "",
            f"{effect.hold_out_rows:,}",
            f"{effect.treatment_rows:,}",
            *("" if number is None else f"{number:+.4f}" for number in numbers),
        )
    console.print(table)
    for effect in effects:
        if effect.slice == ALL:
            console.print(describe(effect), highlight=False, soft_wrap=True)
            if effect.mismatch is not None and effect.mismatch < 0.001:
                console.print(
                    "The groups are not as large as declared; what is found is not to be believed "
                    f"(p {effect.mismatch:.1g}).",
                    highlight=False,
                    soft_wrap=True,
                )
    if plot:
        Path(plot).write_bytes(draw(effects, title))
        console.print(f"Uplift by decile: {plot}", highlight=False)


def show_plan(name: str, until: date | None) -> None:
    """Print how many entities and days an experiment needs."""
    use_case = load_use_case(name)
    experiment = require_experiment(use_case)
    newest = until or receipts.newest_day(name, "publish_predictions")
    if newest is None:
        raise NotReadyError(f"{name} has scored no day yet.")
    found = plan(use_case, newest)
    days = found.days_needed(use_case.target.horizon_days)
    Console().print(
        f"{experiment.name} of {name}: an effect of {experiment.smallest_effect:g} is found with a "
        f"power of {POWER:.0%} at {ALPHA:.0%} by {found.plain:,.0f} entities, "
        f"{experiment.hold_out:.0%} of them held out; by {found.adjusted:,.0f} with the score "
        f"taken out of the outcome. On {found.days} past days {found.daily:,.1f} a day entered: "
        f"that is {days:,.0f} days, the horizon of the last of them included.",
        highlight=False,
        soft_wrap=True,
    )


def draw(effects: Sequence[Effect], title: str) -> bytes:
    """Draw the effect in each decile of the scores, with its bounds (SVG, the same bytes again)."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [e for e in effects if e.slice != ALL and e.effect is not None]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for effect in shown:
        assert effect.effect is not None
        assert effect.lower is not None
        assert effect.upper is not None
        place = int(effect.slice.removeprefix("decile="))
        below, above = effect.effect - effect.lower, effect.upper - effect.effect
        axes.errorbar(place, effect.effect, [[below], [above]], fmt="o", color="C0", capsize=3)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set(xlabel="decile of the score at entry", ylabel="treated less held out", title=title)
    axes.set_xticks(range(1, 11))
    written = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "evergreen"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def _measured(use_case: UseCase, night: date | None) -> tuple[date, list[Effect]]:
    newest = night or receipts.newest_day(use_case.name, "measure_experiment")
    rows: list[dict[str, Any]] = []
    if newest and lake.exists(use_case.name, "effects"):
        rows = lake.rows(use_case.name, "effects", newest, newest)
    if not rows or newest is None:
        raise NotReadyError(
            f"No night has measured the experiment of {use_case.name} yet: {use_case.name}_monitor "
            "does, once outcomes are known of somebody who entered."
        )
    return newest, [Effect.from_dict(row) for row in rows]
