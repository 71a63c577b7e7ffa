"""Where raw rows come from: files, a query, or a simulation."""

from __future__ import annotations

import os
import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from evergreen.contract.base import Identifier, Model, Ratio, raise_if
from evergreen.errors import ConfigError


def _one_sign(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text in "\r\n\0":
        raise ValueError('expected one ASCII character (a tab is "\\t", in double quotes)')
    return text


def _delimiter(text: str) -> str:
    try:
        return text if text == "whitespace" else _one_sign(text)
    except ValueError as error:
        raise ValueError(f"{error}, or whitespace: any run of blanks and tabs") from error


class CsvFormat(Model):
    """How the bytes of a CSV file become columns of text."""

    # One character, or `whitespace`: any run of blanks and tabs.
    delimiter: Annotated[str, AfterValidator(_delimiter)] = ","
    quote: Annotated[str, AfterValidator(_one_sign)] = '"'
    encoding: str = "utf-8"
    # Column names when the file has no header line.
    names: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        separators = " \t" if self.delimiter == "whitespace" else self.delimiter
        raise_if(
            [f"quote: found {self.quote!r}, which delimiter says separates columns; change one"]
            if self.quote in separators
            else []
        )
        return self


class FilesSource(Model):
    """CSV or Parquet through fsspec.

    `path` may hold `${VARIABLE}` and `{day}` (or `{day:%Y/%m/%d}`). Without `{day}` it names one
    file (or glob) that holds many days.
    """

    kind: Literal["files"]
    path: str
    format: Literal["csv", "parquet"] = "csv"
    csv: CsvFormat = CsvFormat()
    # What a day without a file means: a day without business, or a delivery that is late.
    missing: Literal["fail", "empty"] = "fail"


class SqlSource(Model):
    """A query bound to `:start` and `:end`: the instants a local day begins and ends, half open.

    SQLite has no instants, only text: there they are `YYYY-MM-DD` in zone UTC, and in every other
    zone `YYYY-MM-DD HH:MM:SS` of UTC.
    """

    kind: Literal["sql"]
    # The URL is read from EVERGREEN_SECRET_<SECRET>.
    secret: Identifier
    query: str
    batch_rows: Annotated[int, Field(ge=1)] = 50_000


class Segment(Model):
    """One kind of customer of the simulation. Rates are per day, money is per order."""

    name: Identifier
    share: Annotated[float, Field(gt=0, le=1)]
    # BG/NBD: purchase rate ~ Gamma(r, alpha), drop-out after each purchase ~ Beta(a, b).
    r: Annotated[float, Field(gt=0)]
    alpha: Annotated[float, Field(gt=0)]
    a: Annotated[float, Field(gt=0)]
    b: Annotated[float, Field(gt=0)]
    # Gamma-gamma: spend per order ~ Gamma(p, nu), nu ~ Gamma(q, gamma).
    p: Annotated[float, Field(gt=0)] = 6.0
    q: Annotated[float, Field(gt=1)] = 4.0
    gamma: Annotated[float, Field(gt=0)] = 15.0


class RegimeChange(Model):
    """From `day` on, everybody's habits change by these factors."""

    day: date
    purchase_rate: Annotated[float, Field(gt=0)] = 1.0
    drop_out: Annotated[float, Field(gt=0)] = 1.0
    spend: Annotated[float, Field(gt=0)] = 1.0


class Dirt(Model):
    """Shares of deliberately bad rows, so that quarantine has something to do."""

    duplicates: Ratio = 0.004
    missing_customer: Ratio = 0.004
    non_positive_amount: Ratio = 0.003
    cancelled: Ratio = 0.01
    unparsable_date: Ratio = 0.0005


class GeneratorSource(Model):
    """A customer-base simulation, deterministic per day whatever range is asked for."""

    kind: Literal["generator"]
    seed: Annotated[int, Field(ge=0)] = 7
    customers: Annotated[int, Field(ge=1)] = 6_000
    # Customers join evenly between the use case's first day and this many days later.
    acquisition_days: Annotated[int, Field(ge=1)] = 720
    # Amplitude of the yearly season on the purchase rate, peak in early December.
    season: Annotated[float, Field(ge=0, lt=1)] = 0.2
    segments: Annotated[tuple[Segment, ...], Field(min_length=1)]
    regime_change: RegimeChange | None = None
    dirt: Dirt = Dirt()


Source = Annotated[FilesSource | SqlSource | GeneratorSource, Field(discriminator="kind")]


def expand_variables(text: str) -> str:
    """Replace `${NAME}` by the environment's value.

    Raises
    ------
    ConfigError
        A variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise ConfigError(f"{text!r} needs the environment variable {name}, which is not set.")
        return os.environ[name]

    return re.sub(r"\$\{([A-Z][A-Z0-9_]*)\}", value, text)
