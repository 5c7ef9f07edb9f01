"""Who evaluates which images: a split dealt to all ranks in batches."""

import dataclasses

from hvd_imagenet.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """How ranks share the validation split.

    Attributes:
        world_size: number of processes.
        validation_images: images of the validation split.
        evaluation_image_size: side of the images that are evaluated, pixels.
        evaluation_batch_size_per_process: images evaluated at once.
        evaluation_steps: batches that every process evaluates.
    """

    world_size: int
    validation_images: int
    evaluation_image_size: int
    evaluation_batch_size_per_process: int
    evaluation_steps: int

    def evaluation_rows_before(self, position: int, rank: int) -> int:
        """How many of the first `position` images of the split are `rank`'s.

        See `stream_order.py`, which has its own images for these positions.
        """
        batch = self.evaluation_batch_size_per_process
        return dealt(position, batch, self.world_size, rank)

    def evaluation_batch(self, index: int, rank: int) -> range:
        """Validation images of batch `index` of `rank`, possibly none."""
        batch = self.evaluation_batch_size_per_process
        start = (index * self.world_size + rank) * batch
        return range(
            min(start, self.validation_images),
            min(start + batch, self.validation_images),
        )


def make_evaluation_plan(
    config: Config, *, world_size: int, validation_images: int
) -> EvaluationPlan:
    """Plans the evaluation of `config` on `world_size` processes."""
    batch = config.run.evaluation_batch_size_per_process or min(
        (
            config.optimization.batch_size_per_process,
            *(config.phases.phase_batch_sizes_per_process or ()),
        )
    )
    return EvaluationPlan(
        world_size=world_size,
        validation_images=validation_images,
        evaluation_image_size=config.evaluation_image_size,
        evaluation_batch_size_per_process=batch,
        evaluation_steps=-(-validation_images // (batch * world_size)),
    )


def dealt(positions: int, size: int, world_size: int, rank: int) -> int:
    """How many of the first `positions` are dealt to `rank`, `size` a turn."""
    rounds, rest = divmod(positions, size * world_size)
    return rounds * size + min(max(rest - rank * size, 0), size)
