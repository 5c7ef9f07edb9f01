"""Opens the data of a run on all of its processes, and plans with it."""

import dataclasses

from hvd_imagenet import label_offset, splits
from hvd_imagenet.config import Config
from hvd_imagenet.phases import Begun
from hvd_imagenet.plan import Plan, make_plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.sources import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Both splits.

    Attributes:
        train: training images.
        validation: validation images.
        label_offset: number that records store for the first class; None if
            they store none.
        plan: what the processes will do with them.
    """

    train: Source
    validation: Source
    label_offset: int | None
    plan: Plan


def open_data(
    config: Config, processes: Processes, begun: Begun | None = None
) -> Data:
    """Opens both splits; one process of a host goes before the others.

    Args:
        config: what was asked.
        processes: the ranks.
        begun: with `--elastic`, what was done in other worlds.

    Raises:
        ValueError: one sentence on what is wrong and the remedy.
    """
    # It walks through the data files; the others then find the index that it
    # has left.
    is_first_here = processes.world.local_rank == 0
    if not is_first_here:
        processes.barrier()
    train = splits.open_split(config, "train")
    validation = splits.open_split(config, "validation")
    if is_first_here:
        processes.barrier()
    return Data(
        train=train,
        validation=validation,
        label_offset=label_offset.settle(
            (train, validation), config.model.num_classes
        ),
        plan=make_plan(
            config,
            world_size=processes.world.size,
            train_images=len(train),
            validation_images=len(validation),
            begun=begun,
        ),
    )
