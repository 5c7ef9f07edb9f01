"""When gradients leave during the backward pass, and what of it shows.

Sergeev and Del Balso 2018, "Horovod: fast and easy distributed deep learning in
TensorFlow" (arXiv 1802.05799), section 4: a thread wakes up every cycle, takes
the gradients that are ready by then, fuses them into buffers up to a threshold
and sums one buffer after the other.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

OVERLAPS = ("layers", "whole", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradient:
    """A gradient that is to be summed.

    Attributes:
        ready_seconds: when it is there, counted from the begin of the backward
            pass.
        count: bytes on the wire.
    """

    ready_seconds: float
    count: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fusion:
    """How gradients are put together.

    Attributes:
        threshold_bytes: greatest size of a buffer of several; 0 sends each
            gradient alone.
        cycle_seconds: time between two looks for gradients.
    """

    threshold_bytes: float
    cycle_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exchange:
    """What the gradients of a step cost.

    Attributes:
        buffers: number of them.
        busy_seconds: time of the allreduces, together.
        exposed_seconds: by how much the last ends after the backward pass.
    """

    buffers: int
    busy_seconds: float
    exposed_seconds: float


def run(
    gradients: Sequence[Gradient],
    backward_seconds: float,
    fusion: Fusion,
    allreduce_seconds: Callable[[float], float],
    overlap: str,
) -> Exchange:
    """The exchange of one step.

    Args:
        gradients: by rising `ready_seconds`, none after `backward_seconds`.
        backward_seconds: length of the backward pass.
        fusion: how they are put together.
        allreduce_seconds: time of an allreduce of so many bytes.
        overlap: "layers" plays the thread, one buffer at a time. "whole" lets
            all of the exchange hide behind all of the backward pass: max(0,
            exchange - backward), the bound that Goyal 2017, section 4, argues
            with. "none" begins when the backward pass has ended.
    """
    if overlap == "layers":
        return _played(gradients, backward_seconds, fusion, allreduce_seconds)
    seconds = [
        allreduce_seconds(count)
        for count in fused((g.count for g in gradients), fusion.threshold_bytes)
    ]
    hidden = backward_seconds if overlap == "whole" else 0.0
    busy = math.fsum(seconds)
    return Exchange(
        buffers=len(seconds),
        busy_seconds=busy,
        exposed_seconds=max(0.0, busy - hidden),
    )


def _played(
    gradients: Sequence[Gradient],
    backward_seconds: float,
    fusion: Fusion,
    allreduce_seconds: Callable[[float], float],
) -> Exchange:
    cycle = fusion.cycle_seconds
    # The thread and the step know nothing of each other: on average the last
    # gradient waits for half a cycle.
    wakes = (backward_seconds + cycle / 2) % cycle if cycle else 0.0
    buffers, busy, ended, done = 0, 0.0, 0.0, 0
    while done < len(gradients):
        waited = gradients[done].ready_seconds - wakes
        if waited > 0:
            wakes += math.ceil(waited / cycle) * cycle if cycle else waited
        first = done
        while done < len(gradients) and (
            # The next one at least, whatever the rounding above.
            done == first or gradients[done].ready_seconds <= wakes
        ):
            done += 1
        ended = wakes
        for count in fused(
            (g.count for g in gradients[first:done]), fusion.threshold_bytes
        ):
            seconds = allreduce_seconds(count)
            ended += seconds
            busy += seconds
            buffers += 1
        wakes = max(wakes + cycle, ended)
    return Exchange(
        buffers=buffers,
        busy_seconds=busy,
        exposed_seconds=max(0.0, ended - backward_seconds),
    )


def fused(counts: Iterable[float], threshold_bytes: float) -> Iterator[float]:
    """Sizes of the buffers that gradients of these sizes make, in order."""
    buffer = 0.0
    for count in counts:
        if buffer and buffer + count > threshold_bytes:
            yield buffer
            buffer = 0.0
        buffer += count
    if buffer:
        yield buffer
