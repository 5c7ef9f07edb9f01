"""Time of a training step and of a training, by the number of workers."""

import dataclasses
import functools
from collections.abc import Callable

from hvd_imagenet.phases import Phase
from hvd_imagenet.plan import Plan
from hvd_imagenet.scaling import collectives, timeline
from hvd_imagenet.scaling.backward import Backward
from hvd_imagenet.scaling.network import Network

# While a worker only waits for the network, its processor has time to send,
# receive and add, but what is copied into a buffer before and out of it after
# still shows. No theory gives the share: with ResNet-50 on 2 and 4 CPU hosts at
# 0.2 and 0.5 Gbit/s and steps of 0.3 to 2.8 s, a half was nearest.
_HIDDEN_WHILE_IDLE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What is predicted of a step.

    Attributes:
        workers: number of them.
        hosts: that they fill.
        micro_batches: that each worker computes.
        buffers: that the gradients are summed in.
        exchange_seconds: time of these sums.
        exposed_seconds: what of that the backward pass does not hide.
        processor_seconds: by how much it lengthens the compute.
        step_seconds: compute, with that, exposed exchange and tail.
        efficiency: compute / step, above 0 and at most 1.
    """

    workers: int
    hosts: int
    micro_batches: int
    buffers: int
    exchange_seconds: float
    exposed_seconds: float
    processor_seconds: float
    step_seconds: float
    efficiency: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What a prediction is made of.

    Attributes:
        compute_seconds: one worker's time for a micro-batch: forward, backward
            and update.
        backward: the backward pass in it.
        bytes_per_element: of a gradient on the wire.
        network: what joins the workers.
        algorithm: as of `collectives.allreduce_seconds`.
        hierarchy: likewise.
        contained: whether `compute_seconds` has the exchange inside a host.
        fusion: how gradients are put together.
        overlap: as of `timeline.run`.
        processor_seconds_per_byte: of the exchange, taken from the compute.
        tail_seconds: added to a step of several hosts; fitted, not predicted.
    """

    compute_seconds: float
    backward: Backward
    bytes_per_element: int
    network: Network
    algorithm: str
    hierarchy: str
    contained: bool
    fusion: timeline.Fusion
    overlap: str
    processor_seconds_per_byte: float
    tail_seconds: float

    @property
    def backward_seconds(self) -> float:
        """Length of a micro-batch's backward pass."""
        return self.compute_seconds * self.backward.share

    @property
    def wire_bytes(self) -> int:
        """What a worker has to have summed in a step."""
        return sum(self.backward.elements) * self.bytes_per_element

    def step(self, workers: int, micro_batches: int = 1) -> Step:
        """A step in which every worker accumulates so many micro-batches.

        Gradients are exchanged once, during the last backward pass.

        Raises:
            ValueError: the workers do not fill their hosts.
        """
        hosts = self.network.hosts(workers)
        exchange = timeline.Exchange(
            buffers=0, busy_seconds=0.0, exposed_seconds=0.0
        )
        if hosts > 1 or (workers > 1 and not self.contained):
            exchange = self._exchange(workers)
        compute = self.compute_seconds * micro_batches
        processor = self._processor_seconds(exchange)
        tail = self.tail_seconds if hosts > 1 else 0.0
        seconds = compute + processor + exchange.exposed_seconds + tail
        return Step(
            workers=workers,
            hosts=hosts,
            micro_batches=micro_batches,
            buffers=exchange.buffers,
            exchange_seconds=exchange.busy_seconds,
            exposed_seconds=exchange.exposed_seconds,
            processor_seconds=processor,
            step_seconds=seconds,
            efficiency=compute / seconds,
        )

    def _processor_seconds(self, exchange: timeline.Exchange) -> float:
        """What the exchange takes from processors that also compute."""
        if not exchange.busy_seconds:
            return 0.0
        seconds = self.processor_seconds_per_byte * self.wire_bytes
        idle = min(1.0, exchange.exposed_seconds / exchange.busy_seconds)
        hidden = _HIDDEN_WHILE_IDLE * seconds * idle
        return seconds - min(hidden, exchange.exposed_seconds)

    def _exchange(self, workers: int) -> timeline.Exchange:
        gradients = [
            timeline.Gradient(
                ready_seconds=ready * self.backward_seconds,
                count=elements * self.bytes_per_element,
            )
            for elements, ready in zip(
                self.backward.elements, self.backward.ready, strict=True
            )
        ]
        return timeline.run(
            gradients,
            self.backward_seconds,
            self.fusion,
            functools.partial(
                collectives.allreduce_seconds,
                workers=workers,
                network=self.network,
                algorithm=self.algorithm,
                hierarchy=self.hierarchy,
            ),
            self.overlap,
        )


def training_seconds(
    model: Model, plan: Plan, image_cost: Callable[[int], float]
) -> float:
    """Time of all steps of a plan; evaluation and checkpoints are not in it.

    Args:
        model: for micro-batches of the plan's first phase.
        plan: of the training.
        image_cost: what an image of so many pixels a side costs, in any unit.
    """
    phases = plan.phases.phases
    ends = [*(phase.first_step for phase in phases[1:]), plan.total_steps]

    def cost(phase: Phase) -> float:
        return phase.batch_size_per_process * image_cost(phase.image_size)

    total = 0.0
    for phase, end in zip(phases, ends, strict=True):
        of_phase = dataclasses.replace(
            model,
            compute_seconds=model.compute_seconds
            * (cost(phase) / cost(phases[0])),
        )
        step = of_phase.step(plan.world_size, phase.accumulation_steps)
        total += (end - phase.first_step) * step.step_seconds
    return total


def worker_counts(workers_per_host: int, most: int) -> list[int]:
    """1, its doublings in a host, doublings of the hosts, and `most`."""
    counts = {most}
    for count, end in ((1, workers_per_host), (workers_per_host, most)):
        while count <= min(end, most):
            counts.add(count)
            count *= 2
    return sorted(counts)
