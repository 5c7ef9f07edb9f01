"""Times of training steps, with and without exchange of gradients in turn."""

import dataclasses
import time
from collections.abc import Callable, Sequence

from hvd_imagenet import profiling
from hvd_imagenet.batches import Batches
from hvd_imagenet.measuring import summary
from hvd_imagenet.processes import Processes
from hvd_imagenet.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Times:
    """Of consecutive steps of one process.

    Attributes:
        seconds: of every step, whole.
        waited: seconds of it that no batch was there.
    """

    seconds: tuple[float, ...]
    waited: tuple[float, ...]

    @property
    def worked(self) -> list[float]:
        """Seconds of every step without the wait for data."""
        pairs = zip(self.seconds, self.waited, strict=True)
        return [seconds - waited for seconds, waited in pairs]


# Runs a number of steps and times them.
Run = Callable[[int], Times]


def timed(trainer: Trainer, batches: Batches, accumulation_steps: int) -> Run:
    """Makes what runs and times steps of a trainer.

    Every step is waited for, so that its time is known and nothing of it
    overlaps the next one; training queues the next step on a GPU meanwhile.
    """

    def run(count: int) -> Times:
        seconds, waited = [], []
        batches.take_wait_seconds()
        for number in range(1, count + 1):
            begun = time.perf_counter()
            with profiling.step(number):
                float(trainer.train_step(batches, accumulation_steps))
            seconds.append(time.perf_counter() - begun)
            waited.append(batches.take_wait_seconds())
        return Times(tuple(seconds), tuple(waited))

    return run


def in_turn(
    runs: Sequence[Run], steps: int, processes: Processes
) -> list[list[Times]]:
    """Runs steps of each kind in blocks, in turn, so that drift cancels.

    A collective operation: every rank must call it alike.

    Args:
        runs: kinds of steps; the order within a round changes with each round.
        steps: of each kind.
        processes: start every block together, which is not measured.

    Returns:
        For each of `runs` its blocks.
    """
    blocks = [[] for _ in runs]
    for number, length in enumerate(summary.batch_lengths(steps)):
        kinds = list(zip(runs, blocks, strict=True))
        for run, times in kinds[::-1] if number % 2 else kinds:
            processes.barrier()
            times.append(run(length))
    return blocks
