"""Speed and efficiency against the number of processes: panels."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hvd_imagenet.reporting.panels import Line, Panel
from hvd_imagenet.reporting.styles import GREY, Style
from hvd_imagenet.reporting.worlds import Point

# No run's colours: a curve is of several runs, or of the benchmark.
_CURVES = (
    Style(GREY, (), "o"),
    Style("#444444", (5.0, 1.6), "s"),
    Style("#999999", (1.4, 1.4), "^"),
    Style("#555555", (6.0, 1.6, 1.4, 1.6), "D"),
)


def panels(points: Sequence[Point], looks: Mapping[str, Style]) -> list[Panel]:
    """Speed and efficiency against the number of processes; none of none.

    Args:
        points: of all curves.
        looks: of the runs, by name.
    """
    if not points:
        return []
    worlds = sorted({point.processes for point in points})
    ideal = Style(GREY)
    first = points[0]
    speed = first.images_per_second / first.processes / first.efficiency
    words = ", ".join(
        f"{100 * p.efficiency:.1f} % with {p.processes} processes"
        for p in points
    )
    return [
        Panel(
            title="Throughput of worlds",
            x_label="processes",
            y_label="images/s",
            lines=(
                Line(
                    xs=np.array(worlds),
                    ys=speed * np.array(worlds, np.float64),
                    style=ideal,
                    look="ideal",
                    label="ideal",
                ),
                *_lines(points, looks, lambda p: p.images_per_second),
            ),
            description="Images per second against the number of processes:"
            + ", ".join(
                f" {p.images_per_second:.4g} with {p.processes}" for p in points
            )
            + ".",
            x_scale="processes",
            y_from=0.0,
        ),
        Panel(
            title="Efficiency of worlds",
            x_label="processes",
            y_label="efficiency [%]",
            lines=(
                Line(
                    xs=np.array(worlds),
                    ys=np.full(len(worlds), 100.0),
                    style=ideal,
                    look="ideal",
                    label="ideal",
                ),
                *_lines(
                    points,
                    looks,
                    lambda p: 100.0 * p.efficiency,
                    lambda p: 100.0 * (p.ci95 or 0.0),
                ),
            ),
            description=f"Efficiency against processes: {words}.",
            x_scale="processes",
            y_from=0.0,
        ),
    ]


def _lines(
    points: Sequence[Point],
    looks: Mapping[str, Style],
    value: Callable[[Point], float],
    error: Callable[[Point], float] | None = None,
) -> list[Line]:
    lines = []
    for number, curve in enumerate(dict.fromkeys(p.curve for p in points)):
        own = sorted(
            (p for p in points if p.curve == curve), key=lambda p: p.processes
        )
        is_of_runs = own[0].run is not None
        worlds = sorted({point.processes for point in own})
        # Of several runs in a world, the line goes through the mean.
        means = [
            np.mean([value(p) for p in own if p.processes == world])
            for world in worlds
        ]
        lines.append(
            Line(
                xs=np.array(worlds),
                ys=np.array(means),
                style=_CURVES[number % len(_CURVES)],
                look="line" if is_of_runs else "points",
                errors=np.array([error(p) for p in own])
                if error and not is_of_runs and len(own) == len(worlds)
                else None,
                label=curve,
            )
        )
        lines += [
            Line(
                xs=np.array([point.processes]),
                ys=np.array([value(point)]),
                style=looks[point.run],
                look="points",
            )
            for point in own
            if point.run is not None
        ]
    return lines
