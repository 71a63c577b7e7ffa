"""The three pictures of a training run, drawn without a display and without global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from evergreen.training.evaluate import CalibrationBin


def draw_roc(
    target: np.ndarray[Any, Any], curves: Mapping[str, np.ndarray[Any, Any]], path: Path
) -> None:
    """Draw one ROC curve per named score vector to a PNG file."""
    figure, axes = _square("false positive rate", "true positive rate")
    for name, scores in curves.items():
        false_positives, true_positives, _ = roc_curve(target, scores)
        axes.plot(false_positives, true_positives, label=name)
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.legend(loc="lower right")
    figure.savefig(path)


def draw_calibration(bins: Sequence[CalibrationBin], path: Path) -> None:
    """Draw observed against predicted rates to a PNG file."""
    figure, axes = _square("mean score", "observed rate")
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.plot([bin_.mean_score for bin_ in bins], [bin_.observed_rate for bin_ in bins], "o-")
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


def _square(x_label: str, y_label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 5), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1))
    return figure, axes
