"""The table of the release ledger and what keeps it append-only."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from evergreen.databases import take_lock

_ACTIONS = "action IN ('promote', 'roll_back', 'roll_out', 'stop')"

LEDGER = Table(
    "release_ledger",
    MetaData(),
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
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("challenger", Integer),
    Column("share", Float),
    CheckConstraint("sequence >= 1", name="release_ledger_sequence"),
    CheckConstraint(_ACTIONS, name="release_ledger_action"),
    # A task that was killed after its append and runs again finds its own entry.
    UniqueConstraint("use_case", "request", "action", "version", name="release_ledger_request"),
)

# What a ledger of before there were rollouts lacks.
_ROLLOUTS = f"""
ALTER TABLE release_ledger ADD COLUMN IF NOT EXISTS challenger INTEGER;
ALTER TABLE release_ledger ADD COLUMN IF NOT EXISTS share DOUBLE PRECISION;
ALTER TABLE release_ledger DROP CONSTRAINT IF EXISTS release_ledger_action;
ALTER TABLE release_ledger ADD CONSTRAINT release_ledger_action CHECK ({_ACTIONS});
"""

_PROTECTION = """
CREATE OR REPLACE FUNCTION release_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'release_ledger is append-only: % is refused', TG_OP;
END $$;
CREATE OR REPLACE TRIGGER release_ledger_append_only BEFORE UPDATE OR DELETE ON release_ledger
FOR EACH ROW EXECUTE FUNCTION release_ledger_refuse();
CREATE OR REPLACE TRIGGER release_ledger_no_truncate BEFORE TRUNCATE ON release_ledger
FOR EACH STATEMENT EXECUTE FUNCTION release_ledger_refuse();
"""


def create_tables(engine: Engine) -> None:
    """Create the table and its protection where they are missing; safe to repeat and at once."""
    with engine.begin() as connection:
        take_lock(connection.exec_driver_sql, "create the release ledger", 60)
        LEDGER.metadata.create_all(connection)
        connection.execute(text(_ROLLOUTS + _PROTECTION))
