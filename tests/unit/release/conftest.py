import pytest
from sqlalchemy import create_engine

from evergreen.release.ledger_table import create_tables


@pytest.fixture
def sqlite_ledger(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/ledger.db")
    create_tables(engine)
    yield engine
    engine.dispose()
