"""`--compression=auto`: the faster format, as measured when a run starts."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import tensorflow as tf

from hvd_imagenet import resnet_layers
from hvd_imagenet.config import Config
from hvd_imagenet.processes import Processes
from hvd_imagenet.timed_exchange import TimedExchange

# What may be chosen, the exact one first.
_FORMATS = ("none", "fp16")
# How much faster the other must be: what it costs in precision is certain.
_ADVANTAGE = 0.03
# For all measurements, and how often each format is measured at most.
_SECONDS = 10.0
_TIMES = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class WireChoice:
    """What was measured, on all ranks alike.

    Attributes:
        compression: the format that was chosen.
        seconds: for one exchange of all gradients by format; median, of the
            slowest rank.
    """

    compression: str
    seconds: Mapping[str, float]

    @property
    def line(self) -> str:
        """For people."""
        took = " and ".join(
            f"{1e3 * seconds:.3g} ms with {name}"
            for name, seconds in self.seconds.items()
        )
        return (
            f"compression: {self.compression} is chosen, as an exchange of the"
            f" gradients took {took}"
        )


def settle(
    config: Config, processes: Processes
) -> tuple[Processes, WireChoice | None]:
    """Chooses the format of gradients if a configuration leaves it open.

    A collective operation.

    Returns:
        (the processes with the format to use, what was measured or None)
    """
    asked = config.optimization.compression
    if asked != "auto" or processes.world.size == 1:
        return processes, None
    layers = resnet_layers.layers(
        config.model.model,
        num_classes=config.model.num_classes,
        image_size=config.model.image_size,
    )
    sizes = [size for layer in layers for size in layer.elements]
    candidates = {name: processes.with_compression(name) for name in _FORMATS}
    seconds = _measure(candidates, sizes)
    exact, compressed = _FORMATS
    is_faster = seconds[compressed] * (1.0 + _ADVANTAGE) < seconds[exact]
    choice = WireChoice(
        compression=compressed if is_faster else exact, seconds=seconds
    )
    return candidates[choice.compression], choice


def _measure(
    candidates: Mapping[str, Processes], sizes: Sequence[int]
) -> dict[str, float]:
    """Seconds by format, the same on all ranks."""
    gradients = [tf.ones([size]) for size in sizes]
    exchanges = {
        name: TimedExchange(processes) for name, processes in candidates.items()
    }
    (processes, *_) = candidates.values()

    def round_trip() -> dict[str, float]:
        return {
            name: exchange(gradients)[0] for name, exchange in exchanges.items()
        }

    round_trip()
    took = processes.gather_object(sum(round_trip().values()))
    times = max(1, min(_TIMES, int(_SECONDS / max(took))))
    # In turn, so that both see the same of what else the network carries.
    rounds = [round_trip() for _ in range(times)]
    medians = {
        name: statistics.median(seconds[name] for seconds in rounds)
        for name in exchanges
    }
    by_rank = processes.gather_object(medians)
    return {name: max(own[name] for own in by_rank) for name in exchanges}
