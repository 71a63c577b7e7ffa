"""A small use case, and files of its orders."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.features.compute.past import Given
from small_buyers import make_use_case

ORDERS = pa.schema(
    [
        ("order_id", pa.string()),
        ("buyer", pa.string()),
        ("ordered_at", pa.timestamp("us", tz="UTC")),
        ("amount", pa.float64()),
        ("day", pa.date32()),
    ]
)


@pytest.fixture(scope="session")
def write_orders(tmp_path_factory):
    """Write (buyer, instant, amount) rows as one Parquet file per day, as the lake does."""

    def write(rows):
        folder = Path(tmp_path_factory.mktemp("orders"))
        by_day = {}
        for number, (buyer, instant, amount) in enumerate(rows):
            row = (f"O{number}", buyer, instant, amount, instant.date())
            by_day.setdefault(instant.date(), []).append(row)
        paths = []
        for day, day_rows in sorted(by_day.items()):
            partition = folder / f"day={day}"
            partition.mkdir()
            columns = zip(*day_rows, strict=True)
            table = pa.table(
                [pa.array(c, f.type) for c, f in zip(columns, ORDERS, strict=True)], schema=ORDERS
            )
            pq.write_table(table, partition / "part.parquet")
            paths.append(str(partition / "part.parquet"))
        return {"orders": Given(paths)}

    return write
