"""Phases of a run: stretches of steps of one image size and one batch size.

The images of a run are one stream (see `plan.py`); a phase begins at the first
step that starts at or after its epoch, where the phase before has ended.
Nothing here keeps state, so a run can be resumed in any phase.
"""

import bisect
import dataclasses
import json
from collections.abc import Sequence

from hvd_imagenet.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """What holds from `first_step` on.

    Attributes:
        epoch: epoch at which the phase was asked to begin.
        first_step: step it begins with.
        first_position: where in the stream of images that step begins.
        image_size: side of the training images in pixels.
        crop_area_min: least area of the random resized crop, as a share.
        global_batch_size: images per optimizer step, over all processes.
        batch_size_per_process: images of a micro-batch.
        accumulation_steps: micro-batches that a process runs per step.
    """

    epoch: float
    first_step: int = 0
    first_position: int = 0
    image_size: int
    crop_area_min: float
    global_batch_size: int
    batch_size_per_process: int
    accumulation_steps: int


@dataclasses.dataclass(frozen=True)
class Phases:
    """The phases of a run in their order, the first at step 0.

    Attributes:
        phases: at least one.
        train_images: images of an epoch.
    """

    phases: tuple[Phase, ...]
    train_images: int

    def at(self, step: int) -> Phase:
        """The phase of `step`."""
        first_steps = [phase.first_step for phase in self.phases]
        return self.phases[bisect.bisect_right(first_steps, step) - 1]

    def at_position(self, position: int) -> Phase:
        """The phase whose steps take the image at `position` of the stream."""
        firsts = [phase.first_position for phase in self.phases]
        return self.phases[bisect.bisect_right(firsts, position) - 1]

    def images_before(self, step: int) -> int:
        """Images of the stream that the steps before `step` take."""
        phase = self.at(step)
        steps = step - phase.first_step
        return phase.first_position + steps * phase.global_batch_size

    def steps(self, epochs: float) -> int:
        """Steps until `epochs` are complete: the last may reach beyond them."""
        # Rounded before the ceiling: 1.1 x 50 is 55.00000000000001 to a
        # computer.
        images = round(epochs * self.train_images, 6)
        first_positions = [phase.first_position for phase in self.phases]
        # The last phase that such a step can be of; the next begins later.
        last = max(bisect.bisect_left(first_positions, images) - 1, 0)
        phase = self.phases[last]
        missing = images - phase.first_position
        return phase.first_step - int(-missing // phase.global_batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """What a run has done already, in whatever worlds.

    Attributes:
        step: steps done.
        phases: that they were done by.
    """

    step: int
    phases: Phases


def make_phases(
    config: Config,
    world_size: int,
    train_images: int,
    begun: Begun | None = None,
) -> Phases:
    """The phases of a run on `world_size` processes.

    Args:
        config: what was asked.
        world_size: number of processes.
        train_images: images of an epoch.
        begun: with `--elastic`, what was done in other worlds.

    Raises:
        ValueError: a global batch cannot be cut into equal shares. With
            `--elastic` the largest batch that can be is taken.
    """
    changes = config.phases
    epochs = (0.0, *(changes.phase_epochs or ()))

    def values(at_first, later):
        return (at_first, *(later or [at_first] * (len(epochs) - 1)))

    phases = []
    for epoch, image_size, crop_area_min, micro_batch, global_batch in zip(
        epochs,
        values(config.model.image_size, changes.phase_image_sizes),
        values(config.data.crop_area_min, changes.phase_crop_area_min),
        values(
            config.optimization.batch_size_per_process,
            changes.phase_batch_sizes_per_process,
        ),
        values(
            config.optimization.global_batch_size,
            changes.phase_global_batch_sizes,
        ),
        strict=True,
    ):
        world_batch = micro_batch * world_size
        global_batch = global_batch or world_batch
        if config.run.elastic:
            global_batch = _fitting(global_batch, world_batch)
        if global_batch % world_batch:
            where = f" from epoch {epoch:g} on" if epoch else ""
            remedy = _remedy(global_batch, micro_batch, world_size)
            raise ValueError(
                f"--global_batch_size={global_batch}{where} is not divisible by"
                f" --batch_size_per_process={micro_batch} x {world_size}"
                f" processes = {world_batch}; {remedy}"
            )
        phases.append(
            Phase(
                epoch=epoch,
                image_size=image_size,
                crop_area_min=crop_area_min,
                global_batch_size=global_batch,
                batch_size_per_process=micro_batch,
                accumulation_steps=global_batch // world_batch,
            )
        )
    if begun is None or not begun.step:
        return _chain(Phases((phases[0],), train_images), phases[1:])
    return _continue(begun, phases)


def asked_batch_sizes(config: Config) -> list[int | None]:
    """Global batch of every phase; None where it follows the world."""
    first = config.optimization.global_batch_size
    later = len(config.phases.phase_epochs or ())
    return [first, *(config.phases.phase_global_batch_sizes or [first] * later)]


def read(plan_json: str) -> Phases:
    """The phases of a `plan.json` by its text.

    Raises:
        ValueError: it is not the text of a plan.
    """
    try:
        plan = json.loads(plan_json)
        phases = tuple(Phase(**phase) for phase in plan["phases"])
        return Phases(phases, plan["train_images"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"It is no plan of this version: {error}.") from error


def _fitting(global_batch: int, world_batch: int) -> int:
    """The largest batch of whole shares, of one at least."""
    return world_batch * max(1, global_batch // world_batch)


def _continue(begun: Begun, phases: Sequence[Phase]) -> Phases:
    """What was done before, and `phases` from there on."""
    step = begun.step
    now = begun.phases.at(step)
    done = [p for p in begun.phases.phases if p.first_step < step]
    asked = next(p for p in phases if p.epoch == now.epoch)
    if done[-1] is now and now.global_batch_size == asked.global_batch_size:
        # Nothing changes but who does it.
        done.pop()
        first_step, position = now.first_step, now.first_position
    else:
        first_step, position = step, begun.phases.images_before(step)
    asked = dataclasses.replace(
        asked, first_step=first_step, first_position=position
    )
    return _chain(
        Phases((*done, asked), begun.phases.train_images),
        [p for p in phases if p.epoch > now.epoch],
    )


def _chain(chained: Phases, later: Sequence[Phase]) -> Phases:
    """Fills in where each later phase begins.

    Args:
        chained: those whose beginnings are known.
        later: by rising `epoch`.

    Returns:
        The phases that have steps: one shorter than a step is left out when
        the next begins with the same one.
    """
    for phase in later:
        first_step = chained.steps(phase.epoch)
        begun = dataclasses.replace(
            phase,
            first_step=first_step,
            first_position=chained.images_before(first_step),
        )
        kept = [p for p in chained.phases if p.first_step < first_step]
        chained = Phases((*kept, begun), chained.train_images)
    return chained


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
