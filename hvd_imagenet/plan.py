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
import json

from hvd_imagenet import schedule as schedule_lib
from hvd_imagenet.config import Config, ScheduleConfig
from hvd_imagenet.evaluation_plan import (
    EvaluationPlan,
    dealt,
    make_evaluation_plan,
)
from hvd_imagenet.phases import Begun, Phase, Phases, make_phases


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(EvaluationPlan):
    """What this run will do.

    Attributes:
        train_images: images of the training split.
        epochs: passes over the training split.
        warmup_steps: steps before the schedule's own rates begin.
        total_steps: steps of the run.
        phases: image size and batch size of every step.
        schedule: learning rate of a step.
    """

    train_images: int
    epochs: int
    warmup_steps: int
    total_steps: int
    phases: Phases
    schedule: schedule_lib.Schedule

    def learning_rate(self, step: int) -> float:
        """Learning rate of `step`."""
        return self.schedule(step)

    def phase(self, step: int) -> Phase:
        """Image size, batch size and accumulation of `step`."""
        return self.phases.at(step)

    def images_before(self, step: int) -> int:
        """Images, over all processes, that the steps before `step` take."""
        return self.phases.images_before(step)

    def epochs_before(self, step: int) -> float:
        """Passes over the training split that are done before `step`."""
        return self.images_before(step) / self.train_images

    def epoch_end_step(self, epoch: int) -> int:
        """Steps done when every image of `epoch` (from 0) has been seen."""
        return self.phases.steps(epoch + 1)

    def epoch_of_step(self, step: int) -> int:
        """The epoch (from 0) that is not yet complete before `step`."""
        return self.images_before(step) // self.train_images

    def is_due(self, steps: int, every_steps: int) -> bool:
        """Whether what is done every so often is due after `steps` steps.

        It is at the end of epochs, and every `every_steps` steps but for 0.
        """
        if every_steps and steps % every_steps == 0:
            return True
        return self.epoch_of_step(steps) > self.epoch_of_step(steps - 1)

    def micro_batch(self, step: int, index: int, rank: int) -> range:
        """Positions in the stream of images of one micro-batch.

        Args:
            step: optimizer step, 0 to `total_steps` - 1.
            index: 0 to the step's `accumulation_steps` - 1.
            rank: process that runs it, 0 to `world_size` - 1.

        Returns:
            `batch_size_per_process` positions; position p is the image at
            p % train_images of the permutation of epoch p // train_images.
        """
        size = self.phase(step).batch_size_per_process
        number = index * self.world_size + rank
        start = self.images_before(step) + number * size
        return range(start, start + size)

    def rows_before(self, position: int, rank: int) -> int:
        """How many of the first `position` images of the stream are `rank`'s.

        See `stream_order.py`, which has its own images for these positions.
        """
        phase = self.phases.at_position(position)
        return phase.first_position // self.world_size + dealt(
            position - phase.first_position,
            phase.batch_size_per_process,
            self.world_size,
            rank,
        )

    def as_json(self) -> str:
        """One JSON object, a line per entry and per phase.

        `learning_rate` has an entry [step, rate] for the first step of every
        epoch and for the steps before and at which the rate's formula changes.
        """
        entries = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("phases", "schedule")
        }
        entries["epoch_end_steps"] = [
            self.epoch_end_step(epoch) for epoch in range(self.epochs)
        ]
        entries["peak_learning_rate"] = self.schedule.peak
        entries["learning_rate"] = [
            [step, self.learning_rate(step)] for step in self.notable_steps()
        ]
        lines = [f'  "{k}": {json.dumps(v)}' for k, v in entries.items()]
        phases = (
            f"    {json.dumps(dataclasses.asdict(phase))}"
            for phase in self.phases.phases
        )
        lines.append('  "phases": [\n' + ",\n".join(phases) + "\n  ]")
        return "{\n" + ",\n".join(lines) + "\n}"

    def notable_steps(self) -> list[int]:
        """First steps of epochs, and those around a change of any formula."""
        last = self.total_steps - 1
        changes = {self.warmup_steps, *self.schedule.decay.changes}
        changes.update(phase.first_step for phase in self.phases.phases)
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
    begun: Begun | None = None,
) -> Plan:
    """Plans the run of `config` on `world_size` processes.

    Args:
        config: what was asked.
        world_size: number of processes.
        train_images: images of the training split.
        validation_images: images of the validation split.
        begun: with `--elastic`, what was done in other worlds.

    Raises:
        ValueError: the global batch cannot be cut into equal shares; not with
            `--elastic`.
    """
    epochs = config.optimization.epochs
    phases = make_phases(config, world_size, train_images, begun)
    total_steps = phases.steps(epochs)
    schedule = _make_schedule(config.schedule, phases, total_steps)
    evaluation = make_evaluation_plan(
        config, world_size=world_size, validation_images=validation_images
    )
    return Plan(
        **dataclasses.asdict(evaluation),
        train_images=train_images,
        epochs=epochs,
        warmup_steps=schedule.warmup.steps,
        total_steps=total_steps,
        phases=phases,
        schedule=schedule,
    )


def _make_schedule(
    asked: ScheduleConfig, phases: Phases, total_steps: int
) -> schedule_lib.Schedule:
    first_batch = phases.phases[0].global_batch_size
    peak = schedule_lib.linear_scaling(
        asked.base_learning_rate, asked.base_batch_size, first_batch
    )
    start = asked.warmup_learning_rate
    if start is None:
        start = asked.base_learning_rate
    # Goyal 2017 warms up only where the minibatch is larger than the single
    # server's 256 images, which is where the rate to reach is higher.
    needed = asked.warmup != "none" and peak > start
    warmup_steps = phases.steps(asked.warmup_epochs) if needed else 0
    decay = _make_decay(asked, phases, warmup_steps, total_steps, peak)
    if any(p.global_batch_size != first_batch for p in phases.phases):
        decay = schedule_lib.Rescaled(
            decay=decay,
            batch=schedule_lib.Piecewise(
                steps=tuple(p.first_step for p in phases.phases),
                shares=tuple(
                    p.global_batch_size / first_batch for p in phases.phases
                ),
                is_linear=False,
            ),
        )
    warmup = schedule_lib.Warmup(
        start=start,
        target=peak * decay(warmup_steps),
        steps=warmup_steps,
        gradual=asked.warmup == "gradual",
    )
    return schedule_lib.Schedule(peak=peak, warmup=warmup, decay=decay)


def _make_decay(
    asked: ScheduleConfig,
    phases: Phases,
    warmup_steps: int,
    total_steps: int,
    peak: float,
) -> schedule_lib.Decay:
    if asked.schedule == "steps":
        return schedule_lib.Steps(
            boundaries=tuple(map(phases.steps, asked.decay_epochs)),
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
            steps=tuple(map(phases.steps, asked.piecewise_epochs)),
            shares=asked.piecewise_shares,
            is_linear=asked.schedule == "piecewise_linear",
        )
    return schedule_lib.Constant()
