"""One deployment, one catalog: whoever publishes to tables has their receipts and releases, too."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from evergreen import lake
from evergreen.databases import ledger_engine
from evergreen.errors import ConfigError
from evergreen.settings import Settings

_METADATA = sa.MetaData()
_DEPLOYMENT = sa.Table(
    "deployment",
    _METADATA,
    sa.Column("one", sa.Boolean, sa.CheckConstraint("one"), primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
)


def require_own_catalog(settings: Settings) -> None:
    """Let the catalog remember this deployment, which is what the ledger's database says it is.

    Raises
    ------
    ConfigError
        It remembers another.
    """
    engine = ledger_engine(settings)
    ours = {"id": _identify(engine), "ledger": engine.url.render_as_string(hide_password=True)}
    theirs = lake.claim(ours)
    if theirs["id"] != ours["id"]:
        raise ConfigError(
            f"The catalog of the tables belongs to the deployment {theirs['id']}, whose ledger is "
            f"{theirs['ledger']}; this is the deployment {ours['id']}, whose ledger is "
            f"{ours['ledger']}. Each would replace days of which the other has the receipts. Set "
            "EVERGREEN_LEDGER_URL to that ledger, or give this deployment a catalog of its own. If "
            "that ledger is gone for good: docs/troubleshooting.md says how to take the catalog "
            "over."
        )


def _identify(engine: sa.Engine) -> str:
    """Return the deployment's id; the first who asks gives it one."""
    _METADATA.create_all(engine)
    with engine.begin() as connection:
        values = {"one": True, "id": uuid.uuid4().hex}
        connection.execute(insert(_DEPLOYMENT).values(values).on_conflict_do_nothing())
        return str(connection.execute(sa.select(_DEPLOYMENT.c.id)).scalar_one())
