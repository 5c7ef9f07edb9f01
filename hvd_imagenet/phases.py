"""Phases of a run: stretches of steps of one image size and one batch size.

The images of a run are one stream (see `plan.py`); a phase begins at the first
step that starts at or after its epoch, where the phase before has ended.
Nothing here keeps state, so a run can be resumed in any phase.
"""

import bisect
import dataclasses
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


def make_phases(config: Config, world_size: int, train_images: int) -> Phases:
    """The phases of a run on `world_size` processes.

    Raises:
        ValueError: a global batch cannot be cut into equal shares.
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
    return _chain(phases, train_images)


def _chain(phases: Sequence[Phase], train_images: int) -> Phases:
    """Fills in where each phase begins.

    Args:
        phases: by rising `epoch`, the first at 0.
        train_images: images of an epoch.

    Returns:
        The phases that have steps: one shorter than a step is left out when
        the next begins with the same one.
    """
    chained = Phases((phases[0],), train_images)
    for phase in phases[1:]:
        first_step = chained.steps(phase.epoch)
        begun = dataclasses.replace(
            phase,
            first_step=first_step,
            first_position=chained.images_before(first_step),
        )
        kept = [p for p in chained.phases if p.first_step < first_step]
        chained = Phases((*kept, begun), train_images)
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
