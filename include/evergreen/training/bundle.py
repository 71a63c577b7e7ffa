"""A version in a folder, to be taken to another environment: models, card, evidence, checksums.

Nothing in it is executed when it is read, and nothing in it is about one person: models are
UBJSON, everything else is JSON, text and pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evergreen.contract import UseCase
from evergreen.decisions.stored import Stored
from evergreen.disk import room_on, scratch
from evergreen.errors import ConfigError, DamagedError, NotReadyError, PermanentError
from evergreen.targets import TargetModel

FORMAT = 1
"""Of bundles that are written and read."""

BUNDLE_FILE, LEDGER_FILE = "bundle.json", "ledger.json"


@dataclass(frozen=True)
class Declared(Stored):
    """What has to be the same where a model is taken to.

    Parameters
    ----------
    reads
        The dtype that was declared for each feature it reads.
    features_sql, labels_sql
        SHA-256 of both.
    """

    reads: dict[str, str]
    features_sql: str
    labels_sql: str
    target: dict[str, Any]

    @classmethod
    def of(cls, use_case: UseCase, reads: dict[str, str]) -> Declared:
        """Gather it of a use case as it is declared here."""
        columns = use_case.features.columns
        return cls(
            {name: columns[name].dtype for name in reads if name in columns},
            _digest(use_case.features_sql.encode()),
            _digest(use_case.labels_sql.encode()),
            _without_words(use_case.target),
        )


@dataclass(frozen=True)
class Bundle(Stored):
    """The contents of `bundle.json`.

    Parameters
    ----------
    origin
        Environment, version, and the hash of the ledger's last entry there (empty if none).
    tags, parameters, metrics
        Of the training run; see `evergreen.training.record`.
    datasets
        What the run says of its data: per part name, digest, source, schema, profile and tags.
    files
        SHA-256 of every file beside this one, by its path.
    """

    format: int
    use_case: str
    origin: dict[str, str]
    declared: Declared
    tags: dict[str, str]
    parameters: dict[str, str]
    metrics: dict[str, float]
    datasets: tuple[dict[str, Any], ...]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The version where it was trained, for people."""
        return f"{self.use_case}/{self.origin['version']} of {self.origin['environment']}"


def seal(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): _digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != BUNDLE_FILE
    }


def send(folder: Path, place: str) -> None:
    """Copy a folder to a new path or URL, `bundle.json` last: with it the bundle is whole.

    Raises
    ------
    PermanentError
        Something is there.
    """
    import fsspec

    system, path = fsspec.core.url_to_fs(place)
    if system.exists(path) and system.find(path):
        raise PermanentError(f"{place} is not empty; expected a new folder for the bundle.")
    with room_on(place):
        for file in (*seal(folder), BUNDLE_FILE):
            system.makedirs(f"{path}/{file}".rpartition("/")[0], exist_ok=True)
            system.pipe_file(f"{path}/{file}", (folder / file).read_bytes())


@contextmanager
def opened(place: str) -> Iterator[tuple[Bundle, Path]]:
    """Fetch a bundle from a path or URL into a folder of this context, and verify it.

    Raises
    ------
    NotReadyError
        There is none.
    PermanentError
        It was written by a release that this one does not know.
    DamagedError
        A file is missing, is not what was written, or was added.
    """
    import fsspec

    system, path = fsspec.core.url_to_fs(place)
    with scratch("bundle") as root:
        folder = Path(root)
        try:
            text = system.cat_file(f"{path}/{BUNDLE_FILE}")
        except FileNotFoundError as error:
            raise NotReadyError(
                f"{place} holds no {BUNDLE_FILE}; expected a folder that `evergreen export-model` "
                "has written to the end."
            ) from error
        bundle = _parse(place, text)
        for name, digest in bundle.files.items():
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise DamagedError(f"{place} names a file outside of it: {name}. Export it again.")
            try:
                content = system.cat_file(f"{path}/{name}")
            except FileNotFoundError as error:
                raise DamagedError(f"{place} lacks {name}. Export it again.") from error
            if _digest(content) != digest:
                raise DamagedError(
                    f"{name} in {place} has SHA-256 {_digest(content)[:16]}; expected "
                    f"{digest[:16]}, as exported. Copy or export it again."
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        yield bundle, folder


def require_same_declaration(bundle: Bundle, use_case: UseCase) -> None:
    """Refuse a model that was trained on something else than is declared here.

    Raises
    ------
    ConfigError
        A feature it reads is missing or has another dtype, or SQL or target are others.
    """
    theirs, ours = bundle.declared, Declared.of(use_case, bundle.declared.reads)
    differing = [
        f"reads {name} ({dtype}), declared here as {ours.reads.get(name, 'nothing')}"
        for name, dtype in theirs.reads.items()
        if ours.reads.get(name) != dtype
    ]
    for what in ("features_sql", "labels_sql", "target"):
        if getattr(theirs, what) != getattr(ours, what):
            differing.append(f"was trained with another {what.replace('_sql', '.sql')}")
    if differing:
        raise ConfigError(
            f"{bundle.name} {' and '.join(differing)}. Code is promoted before models: bring the "
            f"folder {use_case.folder} to what it was there, or train here."
        )


def _parse(place: str, text: bytes) -> Bundle:
    try:
        found = json.loads(text)
        form = found["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{BUNDLE_FILE} in {place} is no bundle: {error!r}.") from error
    if form != FORMAT:
        raise PermanentError(
            f"{place} is a bundle of format {form!r}; this release reads format {FORMAT}. Export "
            "it with this release, or import it with the one that wrote it."
        )
    return Bundle.from_dict(found)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _without_words(target: TargetModel) -> dict[str, Any]:
    dumped: dict[str, Any] = target.model_dump(mode="json", exclude={"description"})
    return dumped
