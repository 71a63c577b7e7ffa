"""What a page is made of, and how it is rendered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2

Format = Literal["md", "html"]

NONE = "-"
"""What stands for a value that does not exist."""

# From here on, digits behind the point say nothing.
_LARGE = 1_000.0


class Mark(str):
    """A text that somebody must not overlook."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Rows of texts below the names of the columns; folded, only its caption is seen at first."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture, drawn as an SVG element where it is shown.

    Markdown leaves it out, so its numbers are in a table as well.
    """

    draw: Callable[[], str]
    caption: str


@dataclass(frozen=True)
class Pair:
    """Pictures side by side, where there is room for it, below a title and a sentence."""

    title: str
    text: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines to be pasted into a shell."""

    lines: tuple[str, ...]


Block = str | Table | Figure | Pair | Bullets | Code


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


def render_page(
    title: str, sections: Sequence[Section], format: Format, lead: str = "", alert: bool = False
) -> str:
    """Render a page.

    Parameters
    ----------
    format
        `html` is one file that loads nothing: styles and pictures are in it, light and dark.
    lead
        What the page says, in one sentence.
    alert
        Whether somebody has to act on it.

    Returns
    -------
    str
        The same text for the same contents; whatever texts hold, none of it is markup.
    """
    template = _templates().get_template(f"page.{format}.jinja")
    page = template.render(title=title, sections=sections, lead=lead, alert=alert)
    return page.strip() + "\n"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", folded: bool = False
) -> Table:
    """Make a table of any values."""
    return Table(tuple(columns), tuple(tuple(map(show, row)) for row in rows), caption, folded)


def show(value: Any) -> str:
    """Show a number in four digits, or anything else as its text.

    >>> show(0.123456), show(12345.6), show(None), show([1, 2])
    ('0.1235', '12,346', '-', '1 to 2')
    """
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= _LARGE else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {show(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(map(show, value))
    return value if isinstance(value, str) else str(value)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(("html.jinja",), ()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _escape_markdown
    for kind in (Mark, Table, Figure, Pair, Bullets, Code):
        environment.tests[kind.__name__.lower()] = _is_a(kind)
    return environment


def _is_a(kind: type) -> Callable[[object], bool]:
    return lambda block: isinstance(block, kind)


def _escape_markdown(text: str) -> str:
    """Escape what Markdown and HTML inside of it would read as their own."""
    escaped = re.sub(r"([\\|<>*`\[\]])", r"\\\1", " ".join(text.split()))
    return f"**{escaped}**" if isinstance(text, Mark) else escaped
