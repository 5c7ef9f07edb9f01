"""Speed against the number of processes: of runs, and of the benchmark."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from hvd_imagenet.reporting import metrics
from hvd_imagenet.reporting.runs import Run

_FILE = "scaling.json"
# Of a run that has logged fewer speeds, little is known.
_LEAST_SPEEDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """The speed of one world.

    Attributes:
        curve: what it is a point of.
        processes: number of them.
        images_per_second: of all of them.
        efficiency: of each, as a share of that in the curve's smallest world.
        ci95: half the width of its 95 % confidence interval; None if unknown.
        run: name of the run it is of; None if it is the benchmark's.
    """

    curve: str
    processes: int
    images_per_second: float
    efficiency: float
    ci95: float | None = None
    run: str | None = None


def of_runs(runs: Sequence[Run]) -> list[Point]:
    """Points of runs that differ in the world, and do the same work in it.

    The same work is the same network, number format and micro-batches.
    """
    curves: dict[str, list[Run]] = {}
    for run in runs:
        speeds = run.metrics.train.column("images_per_second")
        is_known = np.isfinite(speeds).sum() >= _LEAST_SPEEDS
        if run.config and run.planned and run.images_per_second and is_known:
            curves.setdefault(_work(run), []).append(run)
    return [
        point
        for curve, group in curves.items()
        if len({run.planned.world_size for run in group}) > 1
        for point in _points(curve, group)
    ]


def _work(run: Run) -> str:
    model = run.config.model
    sizes = dict.fromkeys(
        f"{phase.batch_size_per_process} images of {phase.image_size} pixels"
        for phase in run.planned.phases.phases
    )
    return f"{model.model}, {model.precision}, {', '.join(sizes)}"


def _points(curve: str, runs: Sequence[Run]) -> list[Point]:
    def speed(run: Run) -> float:
        """Images per second of each process."""
        return run.images_per_second / run.planned.world_size

    least = min(run.planned.world_size for run in runs)
    base = [speed(run) for run in runs if run.planned.world_size == least]
    return [
        Point(
            curve=curve,
            processes=run.planned.world_size,
            images_per_second=run.images_per_second,
            efficiency=speed(run) * len(base) / sum(base),
            run=run.name,
        )
        for run in sorted(runs, key=lambda run: run.planned.world_size)
    ]


def read_benchmark(path: str) -> list[Point]:
    """The points of a report of the benchmark.

    Args:
        path: its file, or the directory of that.

    Raises:
        ValueError: it is not one, or cannot be read.
    """
    if not os.path.exists(path):
        raise ValueError(
            f"{path} is not there; name the --workdir of a training."
        )
    file_path = os.path.join(path, _FILE) if os.path.isdir(path) else path
    try:
        with open(file_path, encoding="utf-8", errors="replace") as file:
            name = os.path.basename(os.path.abspath(path))
            return [_point(e, name) for e in json.load(file)["points"]]
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is no run directory: it has neither run.flags, plan.json"
            " nor metrics.jsonl; name the --workdir of a training that has"
            " begun."
        ) from error
    except OSError as error:
        raise ValueError(
            f"{file_path} cannot be read ({error.strerror}); leave it out."
        ) from error
    except (
        KeyError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{file_path} is neither a run directory nor a report of"
            f" hvd_imagenet.benchmark --mode=scaling ({error!r}); name the"
            " --workdir of a training."
        ) from error


def _point(entry: Any, name: str) -> Point:
    numbers = {
        which: metrics.number(entry[which])
        for which in ("processes", "images_per_second", "efficiency")
    }
    for which, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{which} is {value}")
    ci95 = entry["ci95"]
    return Point(
        curve=f"{name}: {entry['curve']}",
        processes=int(numbers["processes"]),
        images_per_second=numbers["images_per_second"],
        efficiency=numbers["efficiency"],
        ci95=None if ci95 is None else metrics.number(ci95),
    )
