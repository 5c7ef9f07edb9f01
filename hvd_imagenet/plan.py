"""What a run will do: recipe, world size and data set size made into steps.

The images of a run are one stream: the permutation of epoch 0, that of epoch
1, and so on. A step takes the next `global_batch_size` images of it, so every
step has the full batch and every image is seen exactly once per epoch; the
step in which an epoch ends takes the rest from the next epoch. A step is cut
into micro-batches of `batch_size_per_process` images, in an order that does
not know the world, and rank r of k runs every k-th of them. That is what makes
the optimization the same on any number of processes.
"""

import dataclasses
import functools
import json
from collections.abc import Callable

from hvd_imagenet import schedule as schedule_lib
from hvd_imagenet.config import Config, OptimizationConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What this run will do.

    Attributes:
        world_size: number of processes.
        global_batch_size: images per optimizer step, over all processes.
        batch_size_per_process: images of a micro-batch.
        accumulation_steps: micro-batches that a process runs per step.
        train_images: images of the training split.
        validation_images: images of the validation split.
        epochs: passes over the training split.
        warmup_steps: steps before the schedule's own rates begin.
        total_steps: steps of the run.
        evaluation_batch_size_per_process: images evaluated at once.
        evaluation_steps: batches that every process evaluates.
        schedule: learning rate of a step.
    """

    world_size: int
    global_batch_size: int
    batch_size_per_process: int
    accumulation_steps: int
    train_images: int
    validation_images: int
    epochs: int
    warmup_steps: int
    total_steps: int
    evaluation_batch_size_per_process: int
    evaluation_steps: int
    schedule: schedule_lib.Schedule

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in an epoch; an epoch takes as many, or one more."""
        return self.train_images // self.global_batch_size

    def learning_rate(self, step: int) -> float:
        """Learning rate of `step`."""
        return self.schedule(step)

    def epoch_end_step(self, epoch: int) -> int:
        """Steps done when every image of `epoch` (from 0) has been seen."""
        return _steps(epoch + 1, self.train_images, self.global_batch_size)

    def epoch_of_step(self, step: int) -> int:
        """The epoch (from 0) that is not yet complete before `step`."""
        return step * self.global_batch_size // self.train_images

    def micro_batch(self, step: int, index: int, rank: int) -> range:
        """Positions in the stream of images of one micro-batch.

        Args:
            step: optimizer step, 0 to `total_steps` - 1.
            index: 0 to `accumulation_steps` - 1.
            rank: process that runs it, 0 to `world_size` - 1.

        Returns:
            `batch_size_per_process` positions; position p is the image at
            p % train_images of the permutation of epoch p // train_images.
        """
        number = index * self.world_size + rank
        start = (
            step * self.global_batch_size + number * self.batch_size_per_process
        )
        return range(start, start + self.batch_size_per_process)

    def evaluation_batch(self, index: int, rank: int) -> range:
        """Validation images of batch `index` of `rank`, possibly none."""
        batch = self.evaluation_batch_size_per_process
        start = (index * self.world_size + rank) * batch
        return range(
            min(start, self.validation_images),
            min(start + batch, self.validation_images),
        )

    def as_json(self) -> str:
        """One JSON object, a line per entry.

        `learning_rate` has an entry [step, rate] for the first step of every
        epoch and for the steps before and at which the rate's formula changes.
        """
        entries = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "schedule"
        }
        entries["steps_per_epoch"] = self.steps_per_epoch
        entries["epoch_end_steps"] = [
            self.epoch_end_step(epoch) for epoch in range(self.epochs)
        ]
        entries["peak_learning_rate"] = self.schedule.peak
        entries["learning_rate"] = [
            [step, self.learning_rate(step)] for step in self._notable_steps()
        ]
        lines = (f'  "{k}": {json.dumps(v)}' for k, v in entries.items())
        return "{\n" + ",\n".join(lines) + "\n}"

    def _notable_steps(self) -> list[int]:
        last = self.total_steps - 1
        changes = {self.warmup_steps}
        decay = self.schedule.decay
        if isinstance(decay, schedule_lib.Steps):
            changes.update(decay.boundaries)
        elif isinstance(decay, schedule_lib.Piecewise):
            changes.update(decay.steps)
        steps = {0, 1, last}
        steps.update(changes, (change - 1 for change in changes))
        steps.update(map(self.epoch_end_step, range(self.epochs)))
        return sorted(step for step in steps if 0 <= step <= last)


def make_plan(
    config: Config,
    *,
    world_size: int,
    train_images: int,
    validation_images: int,
) -> Plan:
    """Plans the run of `config` on `world_size` processes.

    Raises:
        ValueError: the global batch cannot be cut into equal shares.
    """
    asked = config.optimization
    micro_batch = asked.batch_size_per_process
    world_batch = micro_batch * world_size
    global_batch = asked.global_batch_size or world_batch
    if global_batch % world_batch:
        remedy = _remedy(global_batch, micro_batch, world_size)
        raise ValueError(
            f"--global_batch_size={global_batch} is not divisible by"
            f" --batch_size_per_process={micro_batch} x {world_size} processes"
            f" = {world_batch}; {remedy}"
        )
    steps = functools.partial(
        _steps, train_images=train_images, global_batch=global_batch
    )
    total_steps = steps(asked.epochs)
    schedule = _make_schedule(asked, global_batch, steps, total_steps)
    evaluation_batch = (
        config.run.evaluation_batch_size_per_process or micro_batch
    )
    return Plan(
        world_size=world_size,
        global_batch_size=global_batch,
        batch_size_per_process=micro_batch,
        accumulation_steps=global_batch // world_batch,
        train_images=train_images,
        validation_images=validation_images,
        epochs=asked.epochs,
        warmup_steps=schedule.warmup.steps,
        total_steps=total_steps,
        evaluation_batch_size_per_process=evaluation_batch,
        evaluation_steps=-(
            -validation_images // (evaluation_batch * world_size)
        ),
        schedule=schedule,
    )


def _make_schedule(
    asked: OptimizationConfig,
    global_batch: int,
    steps: Callable[[float], int],
    total_steps: int,
) -> schedule_lib.Schedule:
    peak = schedule_lib.linear_scaling(
        asked.base_learning_rate, asked.base_batch_size, global_batch
    )
    start = asked.warmup_learning_rate
    if start is None:
        start = asked.base_learning_rate
    # Goyal 2017 warms up only where the minibatch is larger than the single
    # server's 256 images, which is where the rate to reach is higher.
    needed = asked.warmup != "none" and peak > start
    warmup_steps = steps(asked.warmup_epochs) if needed else 0
    decay = _make_decay(asked, steps, warmup_steps, total_steps, peak)
    warmup = schedule_lib.Warmup(
        start=start,
        target=peak * decay(warmup_steps),
        steps=warmup_steps,
        gradual=asked.warmup == "gradual",
    )
    return schedule_lib.Schedule(peak=peak, warmup=warmup, decay=decay)


def _make_decay(
    asked: OptimizationConfig,
    steps: Callable[[float], int],
    warmup_steps: int,
    total_steps: int,
    peak: float,
) -> schedule_lib.Decay:
    if asked.schedule == "steps":
        return schedule_lib.Steps(
            boundaries=tuple(map(steps, asked.decay_epochs)),
            factor=asked.decay_factor,
        )
    if asked.schedule == "cosine":
        return schedule_lib.Cosine(start=warmup_steps, end=total_steps)
    if asked.schedule == "polynomial":
        return schedule_lib.Polynomial(
            start=warmup_steps,
            # So that the last step, too, has a rate above the end's.
            end=total_steps + 1,
            power=asked.polynomial_power,
            end_share=asked.end_learning_rate / peak if peak else 0.0,
        )
    if asked.schedule.startswith("piecewise"):
        return schedule_lib.Piecewise(
            steps=tuple(map(steps, asked.piecewise_epochs)),
            shares=asked.piecewise_shares,
            is_linear=asked.schedule == "piecewise_linear",
        )
    return schedule_lib.Constant()


def _steps(epochs: float, train_images: int, global_batch: int) -> int:
    """Steps until `epochs` are complete: the last may reach beyond them."""
    # Rounded before the ceiling: 1.1 x 50 is 55.00000000000001 to a computer.
    return -int(-round(epochs * train_images, 6) // global_batch)


def _remedy(global_batch: int, micro_batch: int, world_size: int) -> str:
    """How to make a global batch divisible."""
    if global_batch % micro_batch:
        return f"make it a multiple of {micro_batch}, or change that."
    parts = global_batch // micro_batch
    fitting = [n for n in range(1, parts + 1) if parts % n == 0]
    nearest = sorted(fitting, key=lambda n: abs(n - world_size))[:2]
    return (
        f"start {' or '.join(map(str, sorted(nearest)))} processes, or change"
        " one of the two."
    )
