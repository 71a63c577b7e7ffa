"""The pictures of a training run, drawn without a display and without global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from evergreen.training.evaluate import CalibrationBin, Vector


def draw_roc(labels: Vector, scores: Vector, path: Path) -> None:
    """Draw the ROC curve of labels 0 and 1 to a PNG file."""
    figure, axes = _square("false positive rate", "true positive rate", (0.0, 1.0))
    false_positives, true_positives, _ = roc_curve(labels, scores)
    axes.plot(false_positives, true_positives)
    figure.savefig(path)


def draw_calibration(bins: Sequence[CalibrationBin], path: Path) -> None:
    """Draw what was observed against what was predicted to a PNG file."""
    means = [mean for bin_ in bins for mean in (bin_.mean_score, bin_.mean_label)]
    figure, axes = _square("mean score", "mean label", (min(means), max(means)))
    axes.plot([bin_.mean_score for bin_ in bins], [bin_.mean_label for bin_ in bins], "o-")
    figure.savefig(path)


def draw_importances(importances: Mapping[str, float], path: Path) -> None:
    """Draw shares of the total gain, largest on top, to a PNG file."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    figure = Figure(figsize=(6, 1 + 0.3 * len(ordered)), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.barh([name for name, _ in ordered], [share for _, share in ordered])
    axes.set_xlabel("share of total gain")
    figure.savefig(path)


def _square(x_label: str, y_label: str, limits: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 5), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.plot(limits, limits, linestyle=":", color="grey")
    return figure, axes
