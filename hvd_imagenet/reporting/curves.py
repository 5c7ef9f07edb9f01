"""What was measured over the epochs: panels of learning and of throughput."""

from collections.abc import Mapping, Sequence

import numpy as np

from hvd_imagenet.reporting import thinning
from hvd_imagenet.reporting.metrics import Series
from hvd_imagenet.reporting.panels import Line, Panel
from hvd_imagenet.reporting.runs import Run
from hvd_imagenet.reporting.styles import Style

_PERCENT = 100.0
# An axis is cut at so many times what half of the runs stay below.
_CUT = 3.0


def learning(runs: Sequence[Run], styles: Mapping[str, Style]) -> list[Panel]:
    """Loss, top-1 and top-5 over epochs, in training and in validation."""
    panels = []
    for name, label, factor in (
        ("loss", "loss", 1.0),
        ("top1", "top-1 accuracy [%]", _PERCENT),
        ("top5", "top-5 accuracy [%]", _PERCENT),
    ):
        highest = None
        if factor == _PERCENT:
            highest = factor * _highest(runs, name)
        for kind, title in (
            ("train", "Training"),
            ("validation", "Validation"),
        ):
            lines = _curves(
                runs,
                styles,
                kind,
                name,
                factor=factor,
                look="points" if kind == "validation" else "line",
            )
            what = f"{title} {label.partition(' [')[0]}"
            cut = _cut(lines) if name == "loss" else None
            panels.append(
                Panel(
                    title=what,
                    x_label="epoch",
                    y_label=label,
                    lines=lines,
                    description=_described(
                        f"{what} over epochs", runs, kind, name, factor
                    ),
                    y_from=0.0,
                    y_to=highest,
                    y_cut=cut,
                    caption=f"Values above {cut:.3g} are beyond the axis."
                    if cut
                    else "",
                )
            )
    return panels


def throughput(runs: Sequence[Run], styles: Mapping[str, Style]) -> list[Panel]:
    """Speed, and what was logged of its reasons, over epochs."""
    panels = []
    for name, title, label, factor, y_scale in (
        ("images_per_second", "Throughput", "images/s", 1.0, "linear"),
        (
            "data_wait_share",
            "Waiting for data",
            "share of the time [%]",
            _PERCENT,
            "linear",
        ),
        ("loss_scale", "Loss scale", "loss scale", 1.0, "log2"),
        (
            "skipped_images",
            "Images left out",
            "images since the start",
            1.0,
            "linear",
        ),
    ):
        shown = [run for run in runs if run.metrics.train.has(name)]
        if shown:
            panels.append(
                Panel(
                    title=title,
                    x_label="epoch",
                    y_label=label,
                    lines=_curves(shown, styles, "train", name, factor=factor),
                    description=_described(
                        f"{title} over epochs", shown, "train", name, factor
                    ),
                    y_scale=y_scale,
                    y_from=0.0 if y_scale == "linear" else None,
                    y_to=1.0 if name == "data_wait_share" else None,
                )
            )
    return panels


def by_time(runs: Sequence[Run], styles: Mapping[str, Style]) -> list[Panel]:
    """Top-1 of the evaluations over the time trained; none without times."""
    points = []
    for run in runs:
        validation = run.metrics.validation
        if validation.has("top1") and run.seconds is not None:
            seconds = run.seconds_at(validation)
            points.append((run, seconds, _PERCENT * validation.column("top1")))
    if not points:
        return []
    longest = max(float(seconds[-1]) for _, seconds, _ in points)
    unit, length = next(
        (unit, length)
        for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0))
        if longest >= 3 * length or unit == "s"
    )
    words = [
        f"{run.name} {ys[-1]:.4g} after {seconds[-1] / length:.4g} {unit}"
        for run, seconds, ys in points
    ]
    return [
        Panel(
            title="Validation top-1 by time",
            x_label=f"time trained [{unit}]",
            y_label="top-1 accuracy [%]",
            lines=tuple(
                Line(
                    xs=seconds / length,
                    ys=ys,
                    style=styles[run.name],
                    look="points",
                )
                for run, seconds, ys in points
            ),
            description="Validation top-1 accuracy over the time trained; last"
            f" values: {', '.join(words)}.",
            y_from=0.0,
        )
    ]


def _curves(
    runs: Sequence[Run],
    styles: Mapping[str, Style],
    kind: str,
    name: str,
    *,
    factor: float,
    look: str = "line",
) -> tuple[Line, ...]:
    lines = []
    for run in runs:
        series = getattr(run.metrics, kind)
        if not series.has(name):
            continue
        xs, ys = series.column("epoch"), factor * series.column(name)
        style = styles[run.name]
        # Before the mean over neighbours hides where a value is missing.
        lost = _lost(series, name)
        xs_thin, ys_thin = thinning.means(xs, ys)
        lines.append(Line(xs=xs_thin, ys=ys_thin, style=style, look=look))
        if len(lost):
            lines.append(
                Line(
                    xs=xs[lost],
                    ys=ys[lost],
                    style=style,
                    look="marks",
                )
            )
    return tuple(lines)


def _lost(series: Series, name: str) -> np.ndarray:
    """Rows after which the loss, or what came with it, is inf or nan."""
    if name not in ("loss", "top1", "top5"):
        return np.zeros(0, np.int64)
    good = np.isfinite(series.column(name))
    bad_next = np.append(~np.isfinite(series.column("loss"))[1:], False)
    return np.flatnonzero(good & bad_next)


def _described(
    what: str, runs: Sequence[Run], kind: str, name: str, factor: float
) -> str:
    """The last values, for who cannot see the picture."""
    words = []
    for run in runs:
        column = getattr(run.metrics, kind).column(name)
        finite = column[np.isfinite(column)]
        if len(finite):
            words.append(f"{run.name} {factor * finite[-1]:.4g}")
    return f"{what}; last values: {', '.join(words) or 'none'}."


def _cut(lines: Sequence[Line]) -> float | None:
    """Where to cut an axis that one diverging run would take for itself."""
    highest = sorted(
        float(np.nanmax(line.ys)) for line in lines if line.look != "marks"
    )
    if not highest:
        return None
    usual = _CUT * highest[(len(highest) - 1) // 2]
    return usual if 0 < usual < highest[-1] else None


def _highest(runs: Sequence[Run], name: str) -> float:
    """The highest value of both kinds; 0 if there is none."""
    return max(
        (
            float(np.nanmax(series.column(name)))
            for run in runs
            for series in (run.metrics.train, run.metrics.validation)
            if series.has(name)
        ),
        default=0.0,
    )
