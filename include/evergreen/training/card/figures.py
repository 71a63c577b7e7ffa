"""The pictures of a card: SVG to be put inside a page, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Drawn in this colour is what shall have that of the text around it, in light and in dark.
_TEXT = "#010203"
_MARK = "#3b82c4"
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
    shown = [name if len(name) <= _LONG else f"{name[: _LONG - 1]}…" for name in names]
    left = 0.3 + 0.085 * max(map(len, shown))
    figure, axes = _figure(3.4, 0.3 + 0.26 * len(names), left)
    places = range(len(names))
    axes.barh(places, lengths, color=_MARK, xerr=list(errors) or None, ecolor=_TEXT)
    axes.set_yticks(places, shown)
    for tick in axes.get_yticklabels():
        # A category may be any text, such as one in dollars.
        tick.set_parse_math(False)
    axes.invert_yaxis()
    axes.axvline(0, color=_TEXT, linewidth=0.8)
    axes.set_xlabel(x_label)
    return _svg(figure, x_label)


def _figure(width: float, height: float, left: float) -> tuple[Figure, Any]:
    """Make axes of a size, in inches, with room to the left of them."""
    # Stated margins: finding them out would draw everything twice.
    right, bottom, top = 0.15, 0.55, 0.1
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
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata=_NOTHING)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\sid="[^"]*_\d+"', "", text)
    return text.replace(_TEXT, "currentColor").strip()
