"""How fast processes average gradients, and whether they do it right.

Bandwidths as nccl-tests define them: the algorithm's is the size of the tensor
by the time, the bus's that x 2 (p - 1) / p for p processes, which is what each
of them must send and receive at least, and so comparable with the network's.
"""

import dataclasses
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from hvd_imagenet import distributed, environment, resnet
from hvd_imagenet.config import Config
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.processes import Processes
from hvd_imagenet.timed_exchange import TimedExchange
from hvd_imagenet.world import launched_size

_SMALLEST_BYTES = 4096
_GROWTH = 8
# For the repetitions of one kind; slow networks get fewer.
_SECONDS = 10.0
_LEAST_TIMES = 3

# What is sent by --compression, and how wrong a mean of at most 3 may be.
_FORMATS = {
    "none": (tf.float32, 1e-5),
    "fp16": (tf.float16, 1e-2),
    "bf16": (tf.bfloat16, 1e-1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exchange:
    """One kind of exchange.

    Attributes:
        what: what was averaged.
        format: type of the numbers that were sent.
        tensors: how many, each averaged by an operation of its own.
        gradient_bytes: of the float32 tensors.
        wire_bytes: of the same in the format.
        times: how often it was measured.
        seconds: median, of the slowest process.
        algorithm_bandwidth: wire_bytes by seconds.
        bus_bandwidth: that x 2 (p - 1) / p.
    """

    what: str
    format: str
    tensors: int
    gradient_bytes: int
    wire_bytes: int
    times: int
    seconds: float
    algorithm_bandwidth: float
    bus_bandwidth: float


def measure(options: BenchmarkOptions, config: Config) -> dict[str, Any] | None:
    """Averages tensors of several sizes, and all gradients of the model.

    Returns:
        What the first process prints, None on the others.

    Raises:
        ValueError: there is one process only, or an average is wrong.
    """
    if (launched_size(os.environ) or 1) == 1:
        raise ValueError(
            "--mode=allreduce is of several processes and this is one; start"
            " it with horovodrun -np 2 or more."
        )
    compression = config.optimization.compression
    processes = distributed.start(
        compression=compression, transport=config.optimization.transport
    )
    world = processes.world
    model = resnet.build_model(config.model)
    gradients = [tuple(v.shape) for v in model.trainable_variables]
    del model
    kinds = {
        _size_name(size): [(size // 4,)] for size in sizes(options.largest_mib)
    }
    kinds["gradients"] = gradients
    kinds["gradients, as one"] = [(sum(map(math.prod, gradients)),)]
    measured = []
    formats = dict.fromkeys(("none", "fp16", compression))
    for name in (name for name in formats if name != "auto"):
        ranks = processes.with_compression(name)
        for what, shapes in kinds.items():
            seconds = time_exchange(ranks, shapes, name, options)
            measured.append(_exchange(what, shapes, name, seconds, world.size))
    if not world.is_first:
        return None
    return {
        "mode": "allreduce",
        "processes": world.size,
        "transport": processes.transport,
        "model": config.model.model,
        "exchanges": [dataclasses.asdict(m) for m in measured],
        "variables": environment.describe(os.environ),
    }


def sizes(largest_mib: int) -> list[int]:
    """Bytes of the tensors, by a constant factor up to the largest."""
    largest = largest_mib * 2**20
    count = math.ceil(math.log(largest / _SMALLEST_BYTES, _GROWTH))
    below = (_SMALLEST_BYTES * _GROWTH**n for n in range(count))
    return [*below, largest]


def _size_name(size: int) -> str:
    return f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 2**10} KiB"


def time_exchange(
    processes: Processes,
    shapes: Sequence[tuple[int, ...]],
    compression: str,
    options: BenchmarkOptions,
) -> list[float]:
    """Averages tensors of these shapes, again and again.

    Returns:
        Seconds of each repetition, on the slowest process.

    Raises:
        ValueError: a result is wrong on a process; on all of them alike.
    """
    world = processes.world
    pattern = [_pattern(shape) for shape in shapes]
    # Means of 1 / p, 2 / p, ... are far from what any of the ranks has.
    own = [t * ((world.rank + 1) / world.size) for t in pattern]
    right = [t * ((world.size + 1) / (2 * world.size)) for t in pattern]

    exchange = TimedExchange(processes)
    exchange(own)
    slowest = max(processes.gather_object(exchange(own)[0]))
    times = int(min(options.steps, max(_LEAST_TIMES, _SECONDS / slowest)))
    for _ in range(min(times, options.warmup_steps)):
        exchange(own)
    seconds = [exchange(own)[0] for _ in range(times)]
    errors = [
        float(tf.reduce_max(tf.abs(mean - expected)))
        for mean, expected in zip(exchange(own)[1], right, strict=True)
    ]
    everyone = processes.gather_object((seconds, max(errors)))
    tolerance = _FORMATS[compression][1]
    for rank, (_, error) in enumerate(everyone):
        # Not <=, as it may be nan.
        if not error <= tolerance:
            raise ValueError(
                f"an average in {_FORMATS[compression][0].name} is wrong by"
                f" {error:.3g} on rank {rank}, where {tolerance:g} is allowed;"
                " nothing that is exchanged can be trusted, so examine the"
                " hosts with hvd_imagenet.doctor."
            )
    by_rank = [seconds for seconds, _ in everyone]
    return [max(of_all) for of_all in zip(*by_rank, strict=True)]


def _pattern(shape: Sequence[int]) -> tf.Tensor:
    """-3 to 3 again and again, which all formats hold exactly."""
    numbers = tf.range(math.prod(shape)) % 7 - 3
    return tf.reshape(tf.cast(numbers, tf.float32), shape)


def _exchange(
    what: str,
    shapes: Sequence[tuple[int, ...]],
    compression: str,
    seconds: Sequence[float],
    world_size: int,
) -> Exchange:
    dtype, _ = _FORMATS[compression]
    elements = sum(map(math.prod, shapes))
    median = statistics.median(seconds)
    bandwidth = elements * dtype.size / median
    return Exchange(
        what=what,
        format=dtype.name,
        tensors=len(shapes),
        gradient_bytes=elements * tf.float32.size,
        wire_bytes=elements * dtype.size,
        times=len(seconds),
        seconds=median,
        algorithm_bandwidth=bandwidth,
        bus_bandwidth=bandwidth * 2 * (world_size - 1) / world_size,
    )


def table(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The result for people."""
    rows = [
        ("averaged", "format", "wire MiB", "ms", "algorithm MB/s", "bus MB/s")
    ]
    for exchange in result["exchanges"]:
        rows.append(
            (
                exchange["what"],
                exchange["format"],
                f"{exchange['wire_bytes'] / 2**20:.4g}",
                f"{1e3 * exchange['seconds']:.4g}",
                f"{exchange['algorithm_bandwidth'] / 1e6:.4g}",
                f"{exchange['bus_bandwidth'] / 1e6:.4g}",
            )
        )
    return rows
