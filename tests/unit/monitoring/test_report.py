from datetime import date

import numpy as np
import pyarrow as pa

from evergreen.contract import Monitoring
from evergreen.decisions.governor import (
    Champion,
    RetrainingEvidence,
    decide_retraining,
    summarise_nights,
)
from evergreen.monitoring.drift import measure_drift
from evergreen.monitoring.freshness import measure_freshness
from evergreen.monitoring.performance import realised_performance
from evergreen.monitoring.reference import build_reference
from evergreen.monitoring.report import render_night
from evergreen.monitoring.skew import SkewRow
from evergreen.monitoring.volume import Volume
from tiny_people import FEATURES, declare

DAY = date(2026, 3, 20)
MONITORING = Monitoring(persistence=(1, 1))


def test_a_night_from_end_to_end():
    generator = np.random.default_rng(1)
    names = ["calm", "moved", "score"]
    reference = build_reference(
        pa.table({name: generator.normal(size=800) for name in names}), names
    )
    tonight = pa.table({name: generator.normal(name == "moved", 1, 800) for name in names})
    before = [pa.table({name: generator.normal(size=800) for name in names}) for _ in range(33)]
    drift = measure_drift(reference, [tonight, *before], MONITORING, {"calm": 0.4, "moved": 0.6})
    keys = [str(n) for n in range(400)]
    scores = generator.random(400)
    performance = realised_performance(
        pa.table(
            {
                "customer_id": keys,
                "score": scores,
                "model_version": [3] * 400,
                "band": np.where(scores >= 0.5, "high", "low"),
            }
        ),
        pa.table({"customer_id": keys, "label": generator.integers(0, 2, 400)}),
        declare({"name": "gone"}, FEATURES),
        {3: {"auc": 0.9}},
    )
    freshness = measure_freshness({"features": DAY, "predictions": None}, DAY, 1)
    nights = summarise_nights(
        [{"day": DAY, "model_version": 3, **row.to_dict()} for row in drift], MONITORING
    )
    evidence = RetrainingEvidence(
        "churn", DAY, DAY, nights=nights, champion=Champion(3, date(2026, 3, 1))
    )
    text = render_night(
        evidence, decide_retraining(evidence, MONITORING), drift, performance, freshness
    )
    lines = text.splitlines()
    assert lines[0] == "# churn, night of 2026-03-20"
    assert lines[2] == "**retrain**, because of drift. Champion: version 3."
    assert "1 of 3 columns drifted." in lines
    # What drifted comes first.
    table = [line for line in lines if line.startswith(("| moved", "| calm", "| score"))]
    assert table[0].startswith("| moved | all | ks | ")
    assert table[0].endswith("| 0.600 | **drifted** |")
    assert "| predictions | none |  | 0 |  |  | **stale** |" in lines
    metrics = "auc | logloss | brier | pr auc | recall 10 | lift 10 | ece | mean label | mean score"
    assert f"| version | slice | rows | {metrics} |  |" in lines
    assert any(line.startswith("| 3 | all | 400 |") and "degraded" in line for line in lines)
    assert any(line.startswith("| 3 | band=high | ") for line in lines)


def test_parts_that_were_not_measured_say_so():
    evidence = RetrainingEvidence("churn", DAY, None, incidents=("a | b",))
    text = render_night(evidence, decide_retraining(evidence, MONITORING))
    assert "**wait**. Champion: none." in text
    assert text.count("Not measured.") == 3
    assert "No labels have matured." in text
    assert "- blocked, incident: a | b" in text


def test_online_values_are_told():
    def told(*rows, why=None):
        evidence = RetrainingEvidence("churn", DAY, None)
        verdict = decide_retraining(evidence, MONITORING)
        return render_night(evidence, verdict, skew=rows, skew_not_measured=why)

    calm = SkewRow("spent", "features", DAY, 1000, 0, 0, 0, ())
    assert "All of 1,000 served rows are what they should be." in told(calm)
    poisoned = SkewRow("spent", "recomputed", DAY, 1000, 2, 1, 0, ("C1", "C2"))
    assert "| spent | recomputed | 1,000 | 2 | 1 | 0 | C1, C2 |" in told(calm, poisoned)
    assert "Not measured: the night is past." in told(calm, why="the night is past")


def test_a_volume_that_is_unusual_is_told():
    volume = {"orders": Volume(1200, 12345.6, 1e-9, "extreme")}
    freshness = measure_freshness({"orders": DAY}, DAY, 1, volumes=volume)
    evidence = RetrainingEvidence("churn", DAY, None)
    verdict = decide_retraining(evidence, MONITORING)
    text = render_night(evidence, verdict, freshness=freshness)
    assert "| orders | 2026-03-20 | 0 | 0 | 1,200 | 12,346 | **extreme** |" in text
