import pytest

from evergreen.release import ledger
from evergreen.release.ledger_table import create_tables


@pytest.fixture
def book(home):
    engine = ledger.engine(home)
    create_tables(engine)
    return engine
