"""How much of its speed each process keeps in larger worlds, and what is lost.

Weak scaling, as Goyal 2017, section 5.3, measures it: every process has the
same work in any world. With T the time of a step and 1 the world of one,
efficiency is T(1) / T(p), and what is lost of a step's time at p,

    1 - T(1) / T(p) = (communication(p) + [data wait(p) - data wait(1)]
                       + [compute(p) - compute(1)]) / T(p)
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One world that was measured.

    Attributes:
        curve: name of the curve that it is a point of.
        baseline: name of the curve whose world of one it is compared with.
        processes: number of them.
        result: JSON of mode=train.
    """

    curve: str
    baseline: str
    processes: int
    result: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What became of the speed in one world.

    Attributes:
        curve: name of its curve.
        processes: number of them.
        images_per_second: of all of them.
        efficiency: of each, against the world of one.
        ci95: half the width of its 95 % confidence interval; None if unknown.
        without_communication: the efficiency if exchange took no time.
        lost_to_communication: share of the step's time.
        lost_to_data_wait: share that the wait for data has grown by.
        lost_to_rest: share that computation has grown by: cores, memory and
            caches that processes of a host share.
    """

    curve: str
    processes: int
    images_per_second: float
    efficiency: float
    ci95: float | None
    without_communication: float
    lost_to_communication: float
    lost_to_data_wait: float
    lost_to_rest: float


def points(runs: Sequence[Run]) -> list[Point]:
    """Compares every world with the world of one of its baseline."""
    ones = {run.curve: run.result for run in runs if run.processes == 1}
    return [_point(run, ones[run.baseline]) for run in runs]


def _point(run: Run, one: Mapping[str, Any]) -> Point:
    def mean(result: Mapping[str, Any], part: str) -> float:
        return result[f"{part}_seconds"]["mean"]

    many = run.result
    seconds = mean(many, "step")
    efficiency = mean(one, "step") / seconds
    ci95 = None
    relative = [
        result["step_seconds"]["ci95"] is not None
        and result["step_seconds"]["ci95"] / mean(result, "step")
        for result in (many, one)
    ]
    if False not in relative:
        # The world of one against itself is 1 for certain.
        ci95 = 0.0 if many is one else efficiency * math.hypot(*relative)
    silent = seconds - mean(many, "communication")
    return Point(
        curve=run.curve,
        processes=run.processes,
        images_per_second=many["images_per_second"],
        efficiency=efficiency,
        ci95=ci95,
        without_communication=mean(one, "step") / silent,
        lost_to_communication=mean(many, "communication") / seconds,
        lost_to_data_wait=(mean(many, "data_wait") - mean(one, "data_wait"))
        / seconds,
        lost_to_rest=(mean(many, "compute") - mean(one, "compute")) / seconds,
    )


def table(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The points of a report for people."""
    losses = ("communication", "data_wait", "rest")
    heads = (f"lost to {loss.replace('_', ' ')}" for loss in losses)
    rows = [("input, wire", "processes", "images/s", "efficiency", *heads)]
    for point in report["points"]:
        efficiency = f"{point['efficiency']:.1%}"
        if point["ci95"]:
            efficiency += f" ± {point['ci95']:.1%}"
        rows.append(
            (
                point["curve"],
                str(point["processes"]),
                f"{point['images_per_second']:.4g}",
                efficiency,
                *(f"{point[f'lost_to_{loss}']:.1%}" for loss in losses),
            )
        )
    return rows
