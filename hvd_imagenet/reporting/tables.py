"""Rows of the report's tables: runs as texts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hvd_imagenet import pace
from hvd_imagenet.reporting.runs import Run

# A dash, and no minus that stands for a number.
NOTHING = "\u2013"
_TIMES = "\u00d7"


class Status(NamedTuple):
    """Where a run is.

    Attributes:
        kind: "finished", "running", "stopped", "failed" or "empty".
        text: the same in words.
    """

    kind: str
    text: str


def status(run: Run) -> Status:
    """Where a run is, and where it was resumed."""
    total = f" of {run.planned.total_steps:,}" if run.planned else ""
    where = f"step {run.steps_done:,}{total}"
    if run.is_running:
        found = Status("running", f"running, {where}")
    elif run.result is not None:
        found = Status("finished", "finished")
    elif run.has_diverged:
        found = Status("failed", f"diverged, {where}")
    elif run.steps_done:
        found = Status("stopped", f"interrupted, {where}")
    else:
        found = Status("empty", "nothing logged yet")
    resumed = sorted({start.step for start in run.starts if start.step})
    if resumed:
        steps = ", ".join(f"{step:,}" for step in resumed)
        found = found._replace(text=f"{found.text}; resumed at {steps}")
    return found


def result(run: Run) -> dict[str, str]:
    """Texts of a row of the final table, by column."""
    found, after = _final(run)
    best, best_epoch = _best(run)
    return {
        "top1": _percent(found.get("top1")),
        "top5": _percent(found.get("top5")),
        "loss": _number(found.get("loss"), ".4f"),
        "after": after,
        "best": _percent(best),
        "best_epoch": best_epoch,
        "epochs": _epochs(run),
        "time": _time(run.seconds),
        "images_per_second": _number(run.images_per_second, ",.1f"),
    }


def _final(run: Run) -> tuple[Mapping[str, Any], str]:
    """The last evaluation, and after which epoch it was if not the last."""
    if run.result is not None:
        return run.result, ""
    validation = run.metrics.validation
    if not len(validation):
        return {}, ""
    row = {name: validation.last(name) for name in ("top1", "top5", "loss")}
    return row, f"after epoch {validation.last('epoch'):g}"


def _best(run: Run) -> tuple[float | None, str]:
    """The highest top-1 of all evaluations, and its epoch if not the last."""
    validation = run.metrics.validation
    if not validation.has("top1"):
        return None, ""
    row = int(np.nanargmax(validation.column("top1")))
    epoch = validation.column("epoch")[row]
    is_last = row == len(validation) - 1
    return (
        float(validation.column("top1")[row]),
        "" if is_last else f"epoch {epoch:g}",
    )


def _epochs(run: Run) -> str:
    if run.planned is None:
        return NOTHING
    if run.result is not None:
        return f"{run.planned.epochs}"
    done = run.planned.epochs_before(run.steps_done)
    return f"{min(done, run.planned.epochs):.2f} of {run.planned.epochs}"


def plan(run: Run) -> dict[str, str]:
    """Texts of a row of what was planned and done, by column."""
    planned = run.planned
    if planned is None:
        return {}
    phases = planned.phases.phases
    done = run.steps_done
    images = planned.phases.images_before
    return {
        "steps": f"{done:,} of {planned.total_steps:,}",
        "share": f"{min(1.0, done / planned.total_steps):.3f}",
        "images": f"{images(done):,} of {images(planned.total_steps):,}",
        "batch": "; ".join(
            dict.fromkeys(
                f"{planned.world_size:,} {_TIMES} {phase.accumulation_steps:,}"
                f" {_TIMES} {phase.batch_size_per_process:,} ="
                f" {phase.global_batch_size:,}"
                for phase in phases
            )
        ),
        "image_size": "; ".join(
            dict.fromkeys(f"{phase.image_size}" for phase in phases)
        ),
        "rate": _rate_difference(run),
    }


def _rate_difference(run: Run) -> str:
    """By how much the logged learning rate is away from the plan's, at most."""
    train = run.metrics.train
    if run.planned.schedule is None or not train.has("learning_rate"):
        return NOTHING
    last = run.planned.total_steps - 1
    planned = np.array(
        [run.planned.learning_rate(min(int(s) - 1, last)) for s in train.steps]
    )
    difference = np.nanmax(np.abs(train.column("learning_rate") - planned))
    # A rate that is the same in all digits a float64 has.
    if difference <= 1e-12 * np.max(np.abs(planned)):
        return "none"
    return f"{difference:.2g}"


def tiles(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """(label, value, detail) of what one asks first."""
    ended = sum(status(run).kind == "finished" for run in runs)
    found = [("Runs finished", f"{ended} of {len(runs)}", "")]
    scored = [(run, _final(run)[0].get("top1")) for run in runs]
    scored = [(r, v) for r, v in scored if v is not None and math.isfinite(v)]
    if scored:
        best, value = max(scored, key=lambda pair: pair[1])
        found.append(("Highest top-1", f"{_percent(value)} %", best.name))
    fast = [
        (r, r.images_per_second)
        for r in runs
        if r.result is not None and r.images_per_second
    ]
    if fast:
        best, value = max(fast, key=lambda pair: pair[1])
        found.append(
            ("Highest throughput", f"{value:,.0f} images/s", best.name)
        )
    seconds = [run.seconds for run in runs if run.seconds is not None]
    if seconds:
        of_all = "" if len(seconds) == len(runs) else f"{len(seconds)} runs"
        found.append(("Training time", _time(sum(seconds)), of_all))
    return found


def _time(seconds: float | None) -> str:
    return NOTHING if seconds is None else pace.duration(seconds)


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share, ".2f")


def _number(value: float | None, form: str) -> str:
    if value is None:
        return NOTHING
    return f"{value:{form}}" if math.isfinite(value) else "not finite"
