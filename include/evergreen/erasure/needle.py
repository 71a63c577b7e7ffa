"""What is looked for: a key, and values that are personal to its entity; found, and blotted out.

A key such as `17850` is also an amount, and one such as `a` is in every page. So a value of a typed
column is compared as a whole. In running text a key counts as a word where it can hardly be
anything else; others count only where the text says beside them that they are the key.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from evergreen.contract import UseCase

BLOT = "erased"
"""What stands in texts where the entity was."""

# Shorter words, and shorter numbers, mean too many other things.
_WORD, _NUMBER = 4, 8
# Lists that quote keys: those of Great Expectations, and of the table `skew`.
_QUOTING = re.compile(r"unexpected.*(list|counts)|^examples$")
# More than one value: a sentence, or a line that could not be split.
_PROSE = re.compile(r"[\s,;|]")


@dataclass(frozen=True)
class Needle:
    """One entity, as it may be spelled.

    Parameters
    ----------
    key
        As the tables hold it.
    names
        What the key is called: in tables, and in the sources.
    personal
        Values of columns declared personal that nobody else has.
    """

    key: str | int
    names: tuple[str, ...]
    personal: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The key as text."""
        return str(self.key)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What is found in running text by itself, in every spelling that files use."""
        telling = [word for word in (self.text, *self.personal) if _is_telling(word)]
        spelled = (s for word in telling for s in _spellings(word))
        return tuple(dict.fromkeys(spelled))

    @cached_property
    def anywhere(self) -> str:
        """Regular expression, also for Arrow, of what no text is about the entity without."""
        spelled = (s for word in (self.text, *self.personal) for s in _spellings(word))
        return "|".join(map(re.escape, dict.fromkeys(spelled)))

    @cached_property
    def pattern(self) -> str:
        """Regular expression of words, in the dialects of Python and Postgres."""
        found = []
        if self.words:
            found.append(rf"(?<![\w-])(?:{'|'.join(map(re.escape, self.words))})(?![\w-])")
        if not _is_telling(self.text):
            key, names = re.escape(self.text), "|".join(map(re.escape, self.names))
            found.append(
                rf"(?:(?<![\w-])(?:{names})[\\\"']*\s*[=:]\s*[\\\"']*{key}(?![\w.-]))"
                rf"|(?:<td[^>]*>\s*{key}\s*</td>)"
            )
        return "|".join(found)

    def is_in(self, value: Any, name: str = "") -> bool:
        """Whether a value of a column (or of a field of JSON) is the entity's, or speaks of it."""
        if isinstance(value, dict):
            known = self._quotes(name)
            return any(self.is_in(item, name if known else of) for of, item in value.items())
        if isinstance(value, list | tuple):
            return any(self.is_in(item, name) for item in value)
        if not isinstance(value, str):
            return self._quotes(name) and type(value) is int and value == self.key
        if value in self.personal or (value == self.text and self._is_meant(name)):
            return True
        parsed = self._parsed(value)
        if parsed is not None:
            return self.is_in(parsed, name)
        return _PROSE.search(value) is not None and self._compiled.search(value) is not None

    def is_in_text(self, text: str) -> bool:
        """Whether running text, or a document of JSON, names the entity anywhere."""
        if self._compiled.search(text):
            return True
        parsed = self._parsed(text)
        return parsed is not None and self.is_in(parsed)

    def is_in_bytes(self, content: bytes | memoryview) -> bool:
        """Whether bytes that nobody can read say one of the words."""
        return self._in_bytes is not None and self._in_bytes.search(content) is not None

    def blot(self, value: Any, name: str = "") -> Any:
        """Return a value of a column without the entity; others as they are."""
        if isinstance(value, list):
            return [self.blot(item, name) for item in value]
        if not isinstance(value, str) or not self.is_in(value, name):
            return value
        return BLOT if value == self.text else self.blot_text(value)

    def blot_text(self, text: str) -> str:
        """Return running text, or a document of JSON, without the entity."""
        parsed = self._parsed(text)
        if parsed is not None:
            blotted = self._blot_json(parsed, "")
            return text if blotted == parsed else _like(text, blotted)
        return self._compiled.sub(lambda match: self._instead(match[0]), text)

    def _blot_json(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            known = self._quotes(name)
            return {
                self._blot_word(of): self._blot_json(item, name if known else of)
                for of, item in value.items()
            }
        if isinstance(value, list):
            return [self._blot_json(item, name) for item in value]
        if value == self.text or not isinstance(value, str):
            return BLOT if self.is_in(value, name) else value
        return self._blot_word(value)

    def _blot_word(self, text: str) -> str:
        return self._compiled.sub(lambda match: self._instead(match[0]), text)

    def _instead(self, found: str) -> str:
        if found in self.words:
            return BLOT
        before, _, after = found.rpartition(self.text)
        return f"{before}{BLOT}{after}"

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    @cached_property
    def _in_bytes(self) -> re.Pattern[bytes] | None:
        if not self.words:
            return None
        words = b"|".join(re.escape(word.encode()) for word in self.words)
        return re.compile(rb"(?<![\w-])(?:" + words + rb")(?![\w-])")

    def _parsed(self, text: str) -> Any:
        """Read JSON that may be about the entity; None for anything else."""
        if text.lstrip()[:1] not in ("{", "["):
            return None
        try:
            return json.loads(text)
        except ValueError:
            return None

    def _is_meant(self, name: str) -> bool:
        return _is_telling(self.text) or self._quotes(name)

    def _quotes(self, name: str) -> bool:
        """Whether a column or field of this name holds keys."""
        return name in self.names or _QUOTING.search(name) is not None


def needle_of(use_case: UseCase, key: str | int, personal: Iterable[str] = ()) -> Needle:
    """Return how an entity of a use case is spelled."""
    named = [use_case.entity.key, use_case.entity.name]
    for table in use_case.tables.values():
        if use_case.entity.key in table.columns and table.entity_key:
            named.append(table.columns[use_case.entity.key].source)
    kept = sorted(value for value in set(personal) if _is_telling(value))
    return Needle(key, tuple(dict.fromkeys(named)), tuple(kept))


def _is_telling(word: str) -> bool:
    """Whether a word is hardly ever anything else."""
    return len(word) >= (_NUMBER if re.fullmatch(r"[\d.,]*", word) else _WORD)


def _spellings(word: str) -> tuple[str, ...]:
    return (
        *(word, html.escape(word), quote(word), quote(word, safe="")),
        *(json.dumps(word, ensure_ascii=ascii)[1:-1] for ascii in (True, False)),
    )


def _like(text: str, value: Any) -> str:
    """Write JSON as validation results are, or on one line where it was."""
    if "\n" in text.strip():
        return json.dumps(value, indent=1, sort_keys=True) + "\n"
    return json.dumps(value, sort_keys=True)
