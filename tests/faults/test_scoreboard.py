"""What docs/scoreboard.md says of others and of us, as far as it takes seconds and no network.

A test that fails on the stock side means that others have changed: run `make scoreboard`.
"""

import pytest
from benchmarks.scoreboard.finding import CONTENDERS, NOT_ITS_SUBJECT, OURS, Seen, verdict
from benchmarks.scoreboard.rows import PAINS

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    "pain", [pain for pain in PAINS if not pain.slow], ids=lambda pain: f"{pain.number}"
)
def test_others_fail_and_we_pass(pain, home, tmp_path):
    seen = pain.see(tmp_path / "rows" / "row")
    told = {contender: verdict(seen, contender) for contender in CONTENDERS}
    assert told.pop(OURS) == "pass", seen
    others = {found for found in told.values() if found != NOT_ITS_SUBJECT}
    assert others, seen
    assert all(found.startswith("fail") for found in others), seen


def test_a_verdict_is_what_was_seen():
    passed, failed = Seen(OURS, "1", passed=True), Seen(OURS, "2", passed=False)
    asked = Seen(OURS, "1", passed=True, on_request=True)
    assert verdict([passed], OURS) == "pass"
    assert verdict([passed, failed], OURS) == "fail"
    assert verdict([failed, asked], OURS) == "fail; on request pass"
    assert verdict([passed], "Feast") == NOT_ITS_SUBJECT
