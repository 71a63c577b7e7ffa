"""The pictures of pages: SVG to be put inside one, the same bytes for the same numbers."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import matplotlib as mpl
from matplotlib import dates
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Drawn in this colour is what shall have that of the text around it, in light and in dark.
_TEXT = "#010203"
_MARK = "#3b82c4"
_OTHER = "#b7791f"
_ALARM = "#e05252"
# Room for a legend above the axes, in inches.
_LEGEND = 0.28
# Names of bars are cut to so many characters.
_LONG = 40
_NOTHING = {"Creator": None, "Date": None, "Format": None, "Type": None}


def draw_curve(
    xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str, *, diagonal: bool = False
) -> str:
    """Draw ys over xs; with the diagonal, where both are equal. Labels are names, no free text."""
    figure, axes = _figure(3.4, 2.6, left=0.65)
    if diagonal:
        ends = min(*xs, *ys), max(*xs, *ys)
        axes.plot(ends, ends, linestyle=":", color=_TEXT)
    axes.plot(xs, ys, "o-", color=_MARK)
    axes.set(xlabel=x_label, ylabel=y_label)
    return _svg(figure, f"{x_label} {y_label}")


def draw_bars(
    names: Sequence[str], lengths: Sequence[float], x_label: str, errors: Sequence[float] = ()
) -> str:
    """Draw one bar per name, the first on top, with error bars where there are errors."""
    figure, axes = _named(names)
    axes.barh(range(len(names)), lengths, color=_MARK, xerr=list(errors) or None, ecolor=_TEXT)
    axes.axvline(0, color=_TEXT, linewidth=0.8)
    axes.set_xlabel(x_label)
    return _svg(figure, x_label)


def draw_shares(
    names: Sequence[str], shares: Mapping[str, Sequence[float]], salt: str, *, ordered: bool
) -> str:
    """Draw shares of the same bins side by side: the first filled, the others as marks upon it.

    Parameters
    ----------
    names
        Of the bins; any text.
    shares
        By whose they are; one to three.
    salt
        What no other picture of the page has.
    ordered
        Whether bins follow one another, as those of numbers do; else each has a line of its own.
    """
    places = range(len(names))
    figure, axes = (
        _figure(3.4, 1.9, left=0.55, bottom=0.7, top=_LEGEND)
        if ordered
        else _named(names, longest=22, width=2.2, top=_LEGEND)
    )
    looks = ((_OTHER, "-", "|"), (_TEXT, ":", "d"))
    (first, filled), *others = shares.items()
    if ordered:
        steps = [place - 0.5 for place in (*places, len(names))]
        axes.stairs(filled, steps, fill=True, color=_MARK, alpha=0.6, label=first)
        for (name, found), (color, line, _) in zip(others, looks, strict=False):
            axes.stairs(found, steps, color=color, linestyle=line, linewidth=1.6, label=name)
        axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        axes.barh(places, filled, color=_MARK, alpha=0.6, height=0.6, label=first)
        for (name, found), (color, _, mark) in zip(others, looks, strict=False):
            axes.plot(
                found, places, mark, color=color, ms=9 if mark == "|" else 4, mew=2, label=name
            )
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    _legend(figure, axes, [*shares])
    return _svg(figure, salt)


def draw_history(
    days: Sequence[date],
    lines: Mapping[str, Sequence[float | None]],
    salt: str,
    *,
    alarms: Collection[date] = (),
    alarm: str = "alarm",
    floor: tuple[str, float] | None = None,
    counts: bool = False,
    from_zero: bool = True,
) -> str:
    """Draw values over days, and mark the first line where there was an alarm.

    Parameters
    ----------
    days
        Ascending; between two that do not follow each other lines are broken.
    lines
        Values of each day by name, two at most; None where there are none.
    salt
        What no other picture of the page has.
    alarms, alarm
        Days that are marked, and what for.
    floor
        Name and height of a limit.
    counts
        Whether values are whole numbers.
    """
    figure, axes = _figure(3.4, 1.9, left=0.55, bottom=0.35, top=_LEGEND)
    there = {name: values for name, values in lines.items() if {*values} - {None}}
    looks = ((_MARK, "-"), (_TEXT, ":"))
    for (name, values), (color, style) in zip(there.items(), looks, strict=False):
        xs, ys, alone = _with_gaps(days, values)
        axes.plot(
            xs, ys, style, color=color, marker="." if alone else "", markevery=alone, label=name
        )
    first = zip(days, next(iter(lines.values())), strict=True)
    told = [(day, value) for day, value in first if day in alarms and value is not None]
    if told:
        axes.plot(*zip(*told, strict=True), "o", color=_ALARM, ms=5, label=alarm)
    if floor:
        axes.axhline(floor[1], color=_OTHER, linestyle="--", linewidth=1, label=floor[0])
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%m-%d"))
    axes.set_xlim(days[0] - timedelta(days=1), days[-1] + timedelta(days=1))
    axes.tick_params(axis="x", labelsize=8)
    if counts:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if from_zero:
        axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return _svg(figure, salt)


def _with_gaps(
    days: Sequence[date], values: Sequence[float | None]
) -> tuple[list[date], list[float], list[int]]:
    """Return a line that is broken where a day or its value is missing, and its lonely points."""
    found = dict(zip(days, values, strict=True))
    xs = [days[0] + timedelta(days=n) for n in range((days[-1] - days[0]).days + 1)]
    ys = [math.nan if (value := found.get(day)) is None else value for day in xs]
    there = [False, *(not math.isnan(y) for y in ys), False]
    alone = [n for n in range(len(xs)) if there[n + 1] and not there[n] and not there[n + 2]]
    return xs, ys, alone


def _named(
    names: Sequence[str], longest: int = _LONG, width: float = 3.4, top: float = 0.1
) -> tuple[Figure, Any]:
    """Make axes with a line for each name, the first on top."""
    shown = [name if len(name) <= longest else f"{name[: longest - 1]}…" for name in names]
    left = 0.3 + 0.085 * max(map(len, shown))
    figure, axes = _figure(width, 0.3 + 0.26 * len(names), left, top=top)
    axes.set_yticks(range(len(names)), shown)
    for tick in axes.get_yticklabels():
        # A category may be any text, such as one in dollars.
        tick.set_parse_math(False)
    axes.invert_yaxis()
    return figure, axes


def _legend(figure: Figure, axes: Any, order: Sequence[str] = ()) -> None:
    handles, names = axes.get_legend_handles_labels()
    known = dict(zip(names, handles, strict=True))
    figure.legend(
        [known[name] for name in order or names],
        order or names,
        loc="upper left",
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=_TEXT,
        handlelength=1.4,
        columnspacing=1.0,
        borderaxespad=0.1,
    )


def _figure(
    width: float, height: float, left: float, bottom: float = 0.55, top: float = 0.1
) -> tuple[Figure, Any]:
    """Make axes of a size, in inches, with room to the left of, below and above them."""
    # Stated margins: finding them out would draw everything twice.
    right = 0.15
    wide, high = left + width + right, bottom + height + top
    figure = Figure(figsize=(wide, high))
    figure.subplots_adjust(left / wide, bottom / high, 1 - right / wide, 1 - top / high)
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_TEXT, labelcolor=_TEXT)
    axes.spines[:].set_color(_TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.label.set_color(_TEXT)
    axes.yaxis.label.set_color(_TEXT)
    return figure, axes


def _svg(figure: Figure, salt: str) -> str:
    """Return the element alone: no prologue, no addresses, no names that two pictures share."""
    written = io.StringIO()
    # The salt makes names that depend on nothing else; texts stay texts.
    drawn = {"svg.hashsalt": salt, "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}
    with mpl.rc_context(drawn), warnings.catch_warnings():
        # Whoever looks has the letters that are missing here.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(written, format="svg", metadata=_NOTHING)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\sid="[^"]*_\d+"', "", text)
    # A tenth of a point is finer than anybody sees.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d)\d+", r"\1", tag[0]), text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("'DejaVu Sans', sans-serif", "sans-serif")
    return text.replace(_TEXT, "currentColor").strip()
