"""What a run was going to do: plan.json, and the rates between its lines."""

import bisect
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from hvd_imagenet import phases as phases_lib
from hvd_imagenet import plan as plan_lib
from hvd_imagenet.config import Config
from hvd_imagenet.phases import Phases
from hvd_imagenet.reporting import metrics

# Of a float64 that went through JSON, with room for another order of the sums.
_SAME_RATE = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """The plan of a run.

    Attributes:
        world_size: number of processes.
        train_images: images of the training split.
        validation_images: images of the validation split.
        epochs: passes over the training split.
        total_steps: steps of the run.
        phases: image size and batch size of every step.
        rates: (step, learning rate) where the file states it, rising.
        schedule: gives the rate of all other steps; None where that is not
            known, and a straight line is taken between those of the file.
    """

    world_size: int
    train_images: int
    validation_images: int
    epochs: int
    total_steps: int
    phases: Phases
    rates: tuple[tuple[int, float], ...]
    schedule: plan_lib.Plan | None

    def learning_rate(self, step: int) -> float:
        """Learning rate of `step`, 0 to `total_steps` - 1."""
        if self.schedule is not None:
            return self.schedule.learning_rate(step)
        steps = [stated for stated, _ in self.rates]
        place = bisect.bisect_right(steps, step)
        (before, rate), (after, next_rate) = (
            self.rates[max(place - 1, 0)],
            self.rates[min(place, len(steps) - 1)],
        )
        share = (step - before) / (after - before) if after > before else 0.0
        return rate + share * (next_rate - rate)

    def epochs_before(self, step: int) -> float:
        """Passes over the training split that are done before `step`."""
        return self.phases.images_before(step) / self.train_images


def read(text: str, config: Config | None) -> Planned:
    """The plan in the text of a plan.json.

    Args:
        text: of the file.
        config: what was asked of the run; None if that is not known.

    Raises:
        ValueError: it is no plan.
    """
    try:
        phases = phases_lib.read(text)
        entries = json.loads(text)
        counts = {
            name: _count(entries, name)
            for name in (
                "world_size",
                "train_images",
                "validation_images",
                "epochs",
                "total_steps",
            )
        }
        rates = tuple(
            (int(step), metrics.number(rate))
            for step, rate in entries["learning_rate"]
        )
        if not rates or not phases.phases:
            raise ValueError("it has no steps")
        # Whatever a damaged file has there shows here and not later.
        for phase in phases.phases:
            for value in dataclasses.astuple(phase):
                metrics.number(value)
        phases.images_before(counts["total_steps"])
    except (
        ArithmeticError,
        AttributeError,
        KeyError,
        LookupError,
        RecursionError,
        TypeError,
    ) as error:
        raise ValueError(f"it is no plan: {error!r}") from error
    planned = Planned(**counts, phases=phases, rates=rates, schedule=None)
    return dataclasses.replace(planned, schedule=_schedule(planned, config))


def _count(entries: Mapping[str, Any], name: str) -> int:
    value = entries[name]
    if type(value) is not int or not 1 <= value < 2**63:
        raise ValueError(f"{name} is {value!r}")
    return value


def _schedule(planned: Planned, config: Config | None) -> plan_lib.Plan | None:
    """The plan made anew, if it is this one: an elastic run's is not."""
    if config is None:
        return None
    try:
        plan = plan_lib.make_plan(
            config,
            world_size=planned.world_size,
            train_images=planned.train_images,
            validation_images=planned.validation_images,
        )
    except ValueError:
        return None
    is_same = (
        plan.total_steps == planned.total_steps
        and plan.phases == planned.phases
        and all(
            abs(plan.learning_rate(step) - rate) <= _SAME_RATE * abs(rate)
            for step, rate in planned.rates
        )
    )
    return plan if is_same else None
