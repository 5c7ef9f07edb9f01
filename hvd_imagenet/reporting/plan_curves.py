"""What was planned and what was logged of it: panels over the epochs."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hvd_imagenet.reporting import thinning
from hvd_imagenet.reporting.panels import Line, Panel
from hvd_imagenet.reporting.runs import Run
from hvd_imagenet.reporting.styles import Style

# Rates that differ by more have a logarithmic axis.
_LINEAR_RANGE = 20.0


def panels(runs: Sequence[Run], styles: Mapping[str, Style]) -> list[Panel]:
    """Learning rate over epochs, planned and logged; none without plans.

    Batch and image size too, where a run changes them.
    """
    runs = [run for run in runs if run.planned is not None]
    if not runs:
        return []
    panels = [
        _against_plan(
            runs,
            styles,
            "Learning rate",
            "learning rate",
            lambda run, step: run.planned.learning_rate(step),
            "learning_rate",
        )
    ]
    if all(len(run.planned.phases.phases) == 1 for run in runs):
        return panels
    return [
        *panels,
        _against_plan(
            runs,
            styles,
            "Images per step",
            "global batch [images]",
            lambda run, step: run.planned.phases.at(step).global_batch_size,
            "global_batch_size",
        ),
        _against_plan(
            runs,
            styles,
            "Image size",
            "side of the images [pixels]",
            lambda run, step: run.planned.phases.at(step).image_size,
            "image_size",
        ),
    ]


def _against_plan(
    runs: Sequence[Run],
    styles: Mapping[str, Style],
    title: str,
    label: str,
    planned_value: Callable[[Run, int], float],
    logged: str,
) -> Panel:
    """A panel of what was planned and, on top, logged."""
    plans, curves, words = [], [], []
    for run in runs:
        steps = thinning.steps(run.planned)
        epochs = np.array([run.planned.epochs_before(s) for s in steps])
        values = np.array([planned_value(run, s) for s in steps], np.float64)
        style = styles[run.name]
        plans.append(Line(xs=epochs, ys=values, style=style, look="plan"))
        words.append(f"{run.name} {np.min(values):.4g} to {np.max(values):.4g}")
        train = run.metrics.train
        if train.has(logged):
            rows = thinning.rows(len(train))
            # What is logged after a step is the rate of that step.
            before = [max(int(s) - 1, 0) for s in train.steps[rows]]
            xs = np.array([run.planned.epochs_before(s) for s in before])
            ys = train.column(logged)[rows]
            curves.append(Line(xs=xs, ys=ys, style=style))
    peaks = [float(np.max(line.ys)) for line in plans]
    is_wide = 0 < min(peaks) * _LINEAR_RANGE < max(peaks)
    return Panel(
        title=f"{title} (pale: planned)",
        x_label="epoch",
        y_label=label,
        lines=(*plans, *curves),
        description=f"{title} over epochs, planned: {'; '.join(words)}.",
        y_scale="log" if is_wide else "linear",
        # What a cosine ends with is not worth the room.
        y_from=min(peaks) / 1000 if is_wide else 0.0,
    )
