"""What one step hands to the next: a folder of staged Parquet files and what is known of them."""

from __future__ import annotations

import hashlib
import io
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from evergreen.contract import Period, UseCase, load_use_case
from evergreen.disk import write_whole
from evergreen.errors import StagingError
from evergreen.settings import as_folder, load_settings

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds
    from upath import UPath

    from evergreen.lake import Published


# So many that who reads a part of a chunk need not unpack the rest.
_GROUP_ROWS = 131_072


@dataclass(frozen=True)
class Staged:
    """Output of a step that is not published yet.

    Parameters
    ----------
    folder
        Staging folder of this attempt, a path or a URL; gets `<name>-<chunk>.parquet` files.
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
        SHA-256 of each staged file, by `<attempt>/<file>`: what was validated is what is published.
        Attempts of one run lie side by side, and each shard of it is an attempt.
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

    def new_attempt(self) -> Staged:
        """Return the same with a folder of its own in the run, and nothing in it."""
        return replace(self, folder=_new_attempt(as_folder(self.folder).parent), digests={})

    @classmethod
    def shard_of(cls, planned: Mapping[str, Any]) -> Staged:
        """Begin an attempt of one shard of what was planned, with the plan's `facts["lock"]`.

        Raises
        ------
        StagingError
            It was planned with other libraries, which may share entities out otherwise.
        """
        from evergreen.provenance import receipts

        staged = cls.from_dict(planned)
        if not staged.period:
            return staged
        if staged.facts["lock"] != (here := receipts.lock_digest()):
            raise StagingError(
                f"This run was planned with the lock file {staged.facts['lock']}; this worker has "
                f"{here}. Let all workers run one release, and clear the run from its plan on."
            )
        return staged.new_attempt()

    @classmethod
    def gather(cls, staged: Any) -> Staged:
        """Rebuild from what a step gave, or from what each of its shards did.

        Rows of shards are added up; of seconds the slowest counts.
        """
        if isinstance(staged, Mapping):
            return cls.from_dict(staged)
        first, *others = (cls.from_dict(values) for values in staged)
        counts = {day: dict(of_day) for day, of_day in first.counts.items()}
        for other in others:
            for day, of_day in other.counts.items():
                for name, count in of_day.items():
                    counts[day][name] += count
            first.digests.update(other.digests)
        slowest = max(shard.seconds for shard in (first, *others))
        return replace(first, counts=counts, seconds=slowest)

    @property
    def is_sharded(self) -> bool:
        """Whether its files are of several attempts, one of each shard."""
        return len({name.split("/")[0] for name in self.digests}) > 1

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

        written = io.BytesIO()
        pq.write_table(rows, written, compression="zstd", row_group_size=_GROUP_ROWS)
        path = as_folder(self.folder) / _file(name, chunk)
        write_whole(path, written.getvalue())
        digest = hashlib.sha256(written.getbuffer()).hexdigest()
        self.digests[f"{path.parent.name}/{path.name}"] = digest

    def read(self, name: str, chunk: Period) -> pa.Table:
        """Read one staged chunk; that of several shards in the order of `as_of` and key.

        Raises
        ------
        StagingError
            It is not there, or not what was written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = [
            pq.read_table(pa.BufferReader(self._bytes(path))) for path in self._paths(name, chunk)
        ]
        if len(parts) == 1:
            return parts[0]
        return pa.concat_tables(parts).sort_by(
            [("as_of", "ascending"), (self.load_use_case().entity.key, "ascending")]
        )

    def scan(self, name: str, chunk: Period) -> ds.Dataset:
        """Open one staged chunk to be read piece by piece, in no order; see `read`."""
        import pyarrow.dataset as ds

        paths = self._paths(name, chunk)
        for path in paths:
            self._verify(path)
        return ds.dataset([path.path for path in paths], format="parquet", filesystem=paths[0].fs)

    def require_unchanged(self) -> None:
        """Look at what is left of all files, so that a bad one is found before any is published.

        Raises
        ------
        StagingError
            One is not what was written.
        """
        for path in map(as_folder(self.folder).parent.joinpath, self.digests):
            if path.exists():
                self._verify(path)

    def periods(self) -> Iterator[Period]:
        """Iterate over the chunks."""
        return (Period.parse(chunk) for chunk in self.chunks)

    def _paths(self, name: str, chunk: Period) -> list[UPath]:
        """Name the files of a chunk: one of each shard, or the one that should be there."""
        run, file = as_folder(self.folder).parent, _file(name, chunk)
        found = [run / staged for staged in self.digests if staged.endswith(f"/{file}")]
        return found or [as_folder(self.folder) / file]

    def _bytes(self, path: UPath) -> bytes:
        try:
            found = path.read_bytes()
        except FileNotFoundError as error:
            raise _not_as_written(path, "is missing") from error
        self._compare(path, hashlib.sha256(found).hexdigest(), len(found))
        return found

    def _verify(self, path: UPath) -> None:
        """Compare a file with what was written, without holding it in memory."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
                size = file.tell()
        except FileNotFoundError as error:
            raise _not_as_written(path, "is missing") from error
        self._compare(path, digest, size)

    def _compare(self, path: UPath, digest: str, size: int) -> None:
        expected = self.digests.get(f"{path.parent.name}/{path.name}")
        if digest != expected:
            raise _not_as_written(
                path,
                f"is not what was staged and validated: {size:,} bytes with SHA-256 "
                f"{digest[:16]}, expected {expected[:16] if expected else 'none on record'}",
            )


def _file(name: str, chunk: Period) -> str:
    return f"{name}-{chunk.label}.parquet"


def _not_as_written(path: UPath, found: str) -> StagingError:
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


def new_staging(use_case: str, step: str, label: str, run: str | None = None) -> str:
    """Choose a fresh folder for one attempt of one step.

    Its name is unique, so two attempts never share a file; a task that was taken for dead may
    still be writing. Attempts of one run lie together, and the run's publish removes them all.

    Parameters
    ----------
    run
        Identity of the run, the same for all attempts; None for a run of its own.
    """
    identity = hashlib.sha256((run or uuid.uuid4().hex).encode()).hexdigest()[:12]
    return _new_attempt(load_settings().staging / use_case / f"{step}-{label}-{identity}")


def _new_attempt(run: UPath) -> str:
    attempt = run / uuid.uuid4().hex[:12]
    if isinstance(attempt, Path):
        attempt.mkdir(parents=True)
    return str(attempt)


def drop_staging(folder: str) -> None:
    """Remove what the attempts of a run have staged; it may already be gone."""
    run = as_folder(folder).parent
    with suppress(FileNotFoundError):
        run.fs.rm(run.path, recursive=True)


def rows_by_day(rows: pa.Table, days: Sequence[date]) -> dict[str, dict[str, int]]:
    """Count rows per ISO day, for receipts; days without rows count 0."""
    counted = {row["values"]: row["counts"] for row in rows["day"].value_counts().to_pylist()}
    return {day.isoformat(): {"rows": counted.get(day, 0)} for day in days}
