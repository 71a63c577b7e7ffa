"""What one step hands to the next: a folder of staged Parquet files and what is known of them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from evergreen.contract import Period, UseCase, load_use_case
from evergreen.errors import StagingError
from evergreen.settings import load_settings

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

    from evergreen.lake import Published


# So many that who reads a part of a chunk need not unpack the rest.
_GROUP_ROWS = 131_072


@dataclass(frozen=True)
class Staged:
    """Output of a step that is not published yet.

    Parameters
    ----------
    folder
        Staging folder of this attempt; `<name>-<chunk>.parquet` files.
    chunks
        Periods, in order; each is staged, validated and committed on its own, which bounds memory.
    inputs
        What the output was made from, for the receipt.
    counts
        Per ISO day, rows by kind, for the receipt.
    seconds
        Wall time spent so far.
    facts
        Further small values.
    basis
        Newest receipt there was before the inputs were read; see `evergreen.provenance.receipts`.
    digests
        SHA-256 of each staged file, by its name: what was validated is what is published.
    """

    use_case: str
    period: str
    folder: str
    chunks: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    basis: int = 0
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from what `to_dict` gave (and XCom carried)."""
        return cls(**{**values, "chunks": tuple(values["chunks"])})

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)

    def with_seconds(self, started: float, **changes: Any) -> Staged:
        """Add the wall time since `started` (`time.monotonic`), and change fields."""
        return replace(self, seconds=self.seconds + time.monotonic() - started, **changes)

    def load_use_case(self) -> UseCase:
        """Load the use case this belongs to."""
        return load_use_case(self.use_case)

    def write(self, name: str, chunk: Period, rows: pa.Table) -> None:
        """Stage one chunk; a file under its name is always whole.

        Raises
        ------
        DiskFullError
            There is no room for it.
        """
        import pyarrow.parquet as pq

        from evergreen.disk import room_on

        path = self._path(name, chunk)
        unfinished = path.with_suffix(".unfinished")
        written = io.BytesIO()
        pq.write_table(rows, written, compression="zstd", row_group_size=_GROUP_ROWS)
        with room_on(self.folder):
            try:
                unfinished.write_bytes(written.getbuffer())
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        self.digests[path.name] = hashlib.sha256(written.getbuffer()).hexdigest()

    def read(self, name: str, chunk: Period) -> pa.Table:
        """Read one staged chunk.

        Raises
        ------
        StagingError
            It is not there, or not what was written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.read_table(pa.BufferReader(self._bytes(self._path(name, chunk))))

    def scan(self, name: str, chunk: Period) -> ds.Dataset:
        """Open one staged chunk to be read piece by piece; see `read`."""
        import pyarrow.dataset as ds

        path = self._path(name, chunk)
        self._verify(path)
        return ds.dataset(path, format="parquet")

    def require_unchanged(self) -> None:
        """Look at what is left of all files, so that a bad one is found before any is published.

        Raises
        ------
        StagingError
            One is not what was written.
        """
        for path in map(Path(self.folder).joinpath, self.digests):
            if path.exists():
                self._verify(path)

    def periods(self) -> Iterator[Period]:
        """Iterate over the chunks."""
        return (Period.parse(chunk) for chunk in self.chunks)

    def _path(self, name: str, chunk: Period) -> Path:
        return Path(self.folder) / f"{name}-{chunk.label}.parquet"

    def _bytes(self, path: Path) -> bytes:
        try:
            found = path.read_bytes()
        except FileNotFoundError as error:
            raise _not_as_written(path, "is missing") from error
        self._compare(path, hashlib.sha256(found).hexdigest(), len(found))
        return found

    def _verify(self, path: Path) -> None:
        """Compare a file with what was written, without holding it in memory."""
        try:
            with path.open("rb") as file:
                digest, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        except FileNotFoundError as error:
            raise _not_as_written(path, "is missing") from error
        self._compare(path, digest, size)

    def _compare(self, path: Path, digest: str, size: int) -> None:
        expected = self.digests.get(path.name)
        if digest != expected:
            raise _not_as_written(
                path,
                f"is not what was staged and validated: {size:,} bytes with SHA-256 "
                f"{digest[:16]}, expected {expected[:16] if expected else 'none on record'}",
            )


def _not_as_written(path: Path, found: str) -> StagingError:
    return StagingError(
        f"The staged file {path} {found}. Nothing was published from it. Clear the run from its "
        "first task on, so that it is staged and validated again."
    )


def publish_staged(
    staged: Staged,
    step: str,
    table: str,
    chunk: Period,
    part: Mapping[str, str | int] | None = None,
) -> int:
    """Publish one staged chunk of a table, unless this very batch was published before.

    A publish removes what was staged when all is done. If it is killed right then, it is tried
    again, finds nothing staged, and has nothing left to do.

    Returns
    -------
    int
        The snapshot in which the chunk stands as published.

    Raises
    ------
    StagingError
        What was staged is missing or damaged, and was not published.
    """
    from evergreen.provenance import receipts

    try:
        rows = staged.read(table, chunk)
    except StagingError:
        done = receipts.of_run(staged.use_case, step, staged.period, staged.basis)
        for day in chunk.days:
            same = day in done and (done[day].inputs, done[day].counts) == (
                dict(staged.inputs),
                staged.counts.get(day.isoformat(), {}),
            )
            if not same:
                raise
        return done[chunk.last].output_snapshot
    return publish_chunk(staged, step, table, rows, chunk.days, part).snapshot_id


def publish_chunk(
    staged: Staged,
    step: str,
    table: str,
    rows: pa.Table,
    days: Sequence[date],
    part: Mapping[str, str | int] | None = None,
) -> Published:
    """Commit one chunk with its receipt in the same snapshot, then project the receipt to SQL.

    Rows of entities that are erased, or were after the inputs were read, are left out.

    See `lake.publish` for `part`.
    """
    from evergreen import lake
    from evergreen.provenance import erased, receipts

    use_case = staged.load_use_case()
    owner = use_case.base or use_case.name
    gone = erased.erasures(owner, open_at=staged.basis)
    rows, lost = erased.drop(gone, use_case, rows)
    kind = "quarantined" if table == "quarantine" else "rows"
    provenance: dict[str, Any] = {
        "step": step,
        "run": staged.period,
        "inputs": dict(staged.inputs),
        "basis": staged.basis,
        "contract_digest": use_case.contract_digest(table),
        "code_digest": receipts.code_digest(use_case),
        "lock_digest": receipts.lock_digest(),
    }
    in_commit = provenance | {"days": [days[0].isoformat(), days[-1].isoformat()]}

    @contextmanager
    def recorded() -> Iterator[Callable[[Published], None]]:
        with receipts.recording(f"{use_case.name}.{table}") as record:
            erased.require_known(gone, owner, staged.basis)
            yield lambda published: record(
                receipts.Receipt(
                    use_case=use_case.name,
                    day=day,
                    output_table=published.table,
                    output_snapshot=published.snapshot_id,
                    part=dict(part or {}),
                    counts=receipts.without_erased(
                        staged.counts.get(day.isoformat(), {}), **{kind: lost.get(day, 0)}
                    ),
                    content=published.content[day],
                    seconds=staged.seconds,
                    **provenance,
                )
                for day in days
            )

    return lake.publish(
        use_case.name, table, rows, days, {"receipt": json.dumps(in_commit)}, part, recorded
    )


def new_staging(use_case: str, step: str, label: str, run: str | None = None) -> Path:
    """Create a fresh directory for one attempt of one step.

    Its name is unique, so two attempts never share a file; a task that was taken for dead may
    still be writing. Attempts of one run lie together, and the run's publish removes them all.

    Parameters
    ----------
    run
        Identity of the run, the same for all attempts; None for a run of its own.
    """
    identity = hashlib.sha256((run or uuid.uuid4().hex).encode()).hexdigest()[:12]
    attempts = load_settings().staging / use_case / f"{step}-{label}-{identity}"
    folder = attempts / uuid.uuid4().hex[:12]
    folder.mkdir(parents=True)
    return folder


def drop_staging(folder: Path) -> None:
    """Remove what the attempts of a run have staged; it may already be gone."""
    shutil.rmtree(folder.parent, ignore_errors=True)


def rows_by_day(rows: pa.Table, days: Sequence[date]) -> dict[str, dict[str, int]]:
    """Count rows per ISO day, for receipts; days without rows count 0."""
    counted = {row["values"]: row["counts"] for row in rows["day"].value_counts().to_pylist()}
    return {day.isoformat(): {"rows": counted.get(day, 0)} for day in days}
