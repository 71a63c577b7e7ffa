"""Writing SQL: names and texts that are safe whatever they contain."""

from __future__ import annotations


def quote(name: str) -> str:
    """Return an identifier.

    >>> quote('a "b" c')
    '"a ""b"" c"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a string literal.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"
