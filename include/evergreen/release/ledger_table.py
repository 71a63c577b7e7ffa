"""The table of the release ledger and what keeps it append-only."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeDecorator


class UtcInstant(TypeDecorator[datetime]):
    """An aware instant, also on databases that store no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store as UTC."""
        return None if value is None else to_utc(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read as UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_metadata = MetaData()

LEDGER = Table(
    "release_ledger",
    _metadata,
    Column("use_case", String(63), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("action", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("previous_version", Integer),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("evidence_digest", String(64), nullable=False),
    Column("recorded_at", UtcInstant, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    CheckConstraint("sequence >= 1", name="release_ledger_sequence"),
    CheckConstraint("action IN ('promote', 'roll_back')", name="release_ledger_action"),
    # A task that was killed after its append and runs again finds its own entry.
    UniqueConstraint("use_case", "request", "action", "version", name="release_ledger_request"),
)

# Any constant works; it only has to be the same in every process of this project.
_CREATE_LOCK = 7_203_557_119

_POSTGRES_PROTECTION = (
    """
    CREATE OR REPLACE FUNCTION release_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'release_ledger is append-only: % is refused', TG_OP;
    END $$
    """,
    """
    CREATE TRIGGER release_ledger_append_only BEFORE UPDATE OR DELETE ON release_ledger
    FOR EACH ROW EXECUTE FUNCTION release_ledger_refuse()
    """,
    """
    CREATE TRIGGER release_ledger_no_truncate BEFORE TRUNCATE ON release_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION release_ledger_refuse()
    """,
)

_SQLITE_PROTECTION = tuple(
    f"""
    CREATE TRIGGER IF NOT EXISTS release_ledger_no_{event.lower()} BEFORE {event} ON release_ledger
    BEGIN SELECT RAISE(ABORT, 'release_ledger is append-only: {event} is refused'); END
    """
    for event in ("UPDATE", "DELETE")
)


def create_tables(engine: Engine) -> None:
    """Create the table and its protection where they do not exist; safe to call at any time.

    Several processes may do so at once: on Postgres an advisory lock puts them in a row.
    """
    with engine.begin() as connection:
        postgres = engine.dialect.name == "postgresql"
        if postgres:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATE_LOCK})
        connection.execute(CreateTable(LEDGER, if_not_exists=True))
        if engine.dialect.name == "sqlite":
            for statement in _SQLITE_PROTECTION:
                connection.execute(text(statement))
        if postgres:
            # Asked first, because creating a trigger locks out readers.
            triggers = connection.scalar(
                text(
                    "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'release_ledger'::regclass "
                    "AND tgname IN ('release_ledger_append_only', 'release_ledger_no_truncate')"
                )
            )
            if triggers != 2:
                for name in ("append_only", "no_truncate"):
                    connection.execute(
                        text(f"DROP TRIGGER IF EXISTS release_ledger_{name} ON release_ledger")
                    )
                for statement in _POSTGRES_PROTECTION:
                    connection.execute(text(statement))


def to_utc(instant: datetime) -> datetime:
    """Return an aware instant in UTC.

    Raises
    ------
    ValueError
        The instant has no zone; that is a programming error.
    """
    if instant.tzinfo is None:
        raise ValueError(f"expected an aware instant, found {instant.isoformat()} without a zone")
    return instant.astimezone(UTC)
