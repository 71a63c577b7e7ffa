"""What a validation found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from evergreen.errors import ValidationError

if TYPE_CHECKING:
    from upath import UPath

# Examples shown, and kept, per broken expectation.
EXAMPLES = 5
_COLUMNS = ("column", "column_A", "column_B", "column_list")


@dataclass(frozen=True)
class Report:
    """What a validation found.

    Parameters
    ----------
    success
        Every expectation held, and there was something to judge.
    suite, run_name
        Name of a table; the day or days.
    statistics
        `evaluated_expectations`, `successful_expectations`, `unsuccessful_expectations`,
        `success_percent`, `rows`.
    failures
        One line per broken expectation: what was expected of which column, what was found, how
        often, and examples.
    refused
        Days that broke a batch rule: by the rule's name, what was found and expected.
    results_path, docs_path
        The result as JSON, and its page.
    """

    success: bool
    suite: str
    run_name: str
    statistics: Mapping[str, Any]
    failures: tuple[str, ...]
    results_path: UPath
    docs_path: UPath
    refused: Mapping[date, Mapping[str, str]] = field(default_factory=dict)

    def require(self) -> None:
        """Do nothing if the validation succeeded.

        Raises
        ------
        ValidationError
            It did not; the message lists every failure and where to look.
        """
        if self.success:
            return
        days = [f"{day}: {'; '.join(why.values())}" for day, why in self.refused.items()]
        listed = "\n".join(f"  - {failure}" for failure in (*self.failures, *days))
        raise ValidationError(
            f"The {self.suite} of {self.run_name} broke their contract; nothing was published.\n"
            f"{listed}\nThe full result is shown in {self.docs_path}. Mend the source or the "
            "contract, then run the same day again."
        )


def describe(result: Any) -> str:
    """Say in one line what a broken expectation expected, and what was found."""
    config, found = result.expectation_config, result.result
    kwargs = {k: v for k, v in config.kwargs.items() if k != "batch_id" and v is not None}
    for name in _COLUMNS:
        kwargs.pop(name, None)
    names = columns_of(result)
    asked = ", ".join(f"{name}={_short(value)}" for name, value in kwargs.items())
    parts = [f"{names}: {config.type}({asked})" if asked else f"{names}: {config.type}"]
    if raised := _raised(result.exception_info):
        return f"{parts[0]}: could not be judged: {raised}"
    if "unexpected_count" in found and "element_count" in found:
        parts.append(f"{found['unexpected_count']} of {found['element_count']} rows")
    if "observed_value" in found:
        parts.append(f"found {found['observed_value']}")
    if examples := found.get("partial_unexpected_index_list"):
        parts.append("for example " + "; ".join(_example(e) for e in examples[:EXAMPLES]))
    elif examples := found.get("partial_unexpected_list"):
        parts.append(f"for example {examples[:EXAMPLES]}")
    return "; ".join(parts)


def columns_of(result: Any) -> str:
    """Name the columns an expectation is about, in its order."""
    kwargs = result.expectation_config.kwargs
    columns = [kwargs[name] for name in _COLUMNS if name in kwargs]
    return ", ".join(c if isinstance(c, str) else ", ".join(c) for c in columns)


def _short(value: Any) -> str:
    """Show the ends of a long list; the whole of it is in the result."""
    if isinstance(value, list) and len(value) > 2 * EXAMPLES:
        return f"[{value[0]}, …, {value[-1]}] ({len(value)} values)"
    return str(value)


def _example(labelled: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labelled.items())


def _raised(info: Mapping[str, Any] | None) -> str:
    """Return the message of an expectation that could not be evaluated, if it could not."""
    if not info:
        return ""
    if "raised_exception" in info:
        return str(info["exception_message"]) if info["raised_exception"] else ""
    return "; ".join(str(each["exception_message"]) for each in info.values())
