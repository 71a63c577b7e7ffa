"""Pages of sentences, tables and pictures, in Markdown or as one HTML file that loads nothing."""

from evergreen.pages.page import (
    NONE,
    Block,
    Bullets,
    Code,
    Figure,
    Format,
    Mark,
    Pair,
    Section,
    Table,
    render_page,
    show,
    table,
)

__all__ = [
    "NONE",
    "Block",
    "Bullets",
    "Code",
    "Figure",
    "Format",
    "Mark",
    "Pair",
    "Section",
    "Table",
    "render_page",
    "show",
    "table",
]
