"""Which worlds are compared, and what each of them does."""

import dataclasses
from collections.abc import Iterator

from hvd_imagenet import imagenet
from hvd_imagenet.config import Config
from hvd_imagenet.plan import make_plan

_SYNTHETIC = "synthetic, float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A world to measure.

    Attributes:
        curve: name of the curve that it is a point of.
        baseline: name of the curve whose world of one it is compared with.
        processes: number of them.
        config: what they train.
    """

    curve: str
    baseline: str
    processes: int
    config: Config

    def __str__(self) -> str:
        several = "es" if self.processes > 1 else ""
        return f"{self.processes} process{several}, {self.curve}"


def worlds(config: Config, most: int) -> Iterator[World]:
    """What is measured, for every number of processes in turn.

    The micro-batches that a process has in a step of the largest world are
    those of every world. One process alone exchanges nothing, in any format.

    Args:
        config: what was asked for.
        most: number of processes of the largest world.

    Raises:
        ValueError: there is one process only, or the batch cannot be shared.
    """
    if most == 1:
        raise ValueError(
            "--mode=scaling compares worlds, and the hosts have one process"
            " together; name more, as in --hosts=localhost:4."
        )
    phase = make_plan(
        config,
        world_size=most,
        train_images=config.data.train_images or imagenet.TRAIN_IMAGES,
        validation_images=config.data.validation_images
        or imagenet.VALIDATION_IMAGES,
    ).phase(0)
    share = phase.global_batch_size // most
    synthetic = dataclasses.replace(
        config.data,
        data_dir=None,
        data_format="synthetic",
        validation_labels=None,
        label_offset=None,
    )
    wire = config.optimization.compression
    for processes in sizes(most):
        kinds = [(_SYNTHETIC, _SYNTHETIC, synthetic, "none")]
        if processes > 1:
            kinds.append(("synthetic, fp16", _SYNTHETIC, synthetic, "fp16"))
        if config.data.data_dir and config.data.data_format != "synthetic":
            name = f"data, {'float32' if wire == 'none' else wire}"
            kinds.append((name, name, config.data, wire))
        for curve, baseline, data, compression in kinds:
            yield World(
                curve=curve,
                baseline=baseline,
                processes=processes,
                config=dataclasses.replace(
                    config,
                    data=data,
                    optimization=dataclasses.replace(
                        config.optimization,
                        compression=compression,
                        global_batch_size=share * processes,
                    ),
                    # The first one alone is measured.
                    phases=type(config.phases)(),
                ),
            )


def sizes(most: int) -> list[int]:
    """Powers of two below, and the largest world."""
    return [*(2**n for n in range((most - 1).bit_length())), most]
