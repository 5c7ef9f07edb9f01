"""What can be asked of `hvd_imagenet.predict_scaling` besides a job's flags."""

import dataclasses

from hvd_imagenet.knobs import Checked, site
from hvd_imagenet.scaling.collectives import ALGORITHMS, HIERARCHIES
from hvd_imagenet.scaling.timeline import OVERLAPS

_NETWORK = (
    "latency_seconds",
    "bandwidth_gbit",
    "host_latency_seconds",
    "host_bandwidth_gbit",
    "reduction_seconds_per_byte",
)
_FITTABLE = (
    "step_seconds",
    "backward_share",
    *_NETWORK,
    "processor_seconds_per_byte",
    "tail_seconds",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingOptions(Checked):
    """The step of one worker, the network, the exchange, and what is written.

    Raises:
        ValueError: a value is outside its limits, or two do not fit together.
    """

    step_seconds: float | None = site(
        None,
        "Time that a worker computes for batch_size_per_process images:"
        " forward, backward and update, without any exchange.",
        unit="seconds",
        minimum=1e-6,
        maximum=86_400.0,
    )
    measured: str | None = site(
        None,
        "Take that time from this JSON file instead, which"
        " hvd_imagenet.benchmark --mode=train has written with the same flags"
        " and as many processes per host.",
    )
    backward_share: float | None = site(
        None,
        "Share of the step that is the backward pass, behind which the exchange"
        " can hide. Default: by the multiply-adds of the network, about 2/3.",
        minimum=0.01,
        maximum=1.0,
    )
    gradient_elements: tuple[int, ...] | None = site(
        None,
        "Numbers in each variable of another network, in its order; their"
        " gradients are taken to come at equal distances. Default: those of"
        " --model, at the times that its layers' multiply-adds take.",
        unit="numbers",
        minimum=1,
    )
    bandwidth_gbit: float | None = site(
        None,
        "What a host's link carries one way, of payload: Ethernet and TCP take"
        " about 5% of the nominal rate. hvd_imagenet.doctor measures it. Less"
        " where the processes cannot exchange as much.",
        unit="Gbit/s",
        minimum=1e-4,
        maximum=1e5,
    )
    latency_seconds: float = site(
        5e-5,
        "What a message between hosts takes whatever its length; about half of"
        " the time there and back that hvd_imagenet.doctor measures.",
        unit="seconds",
        minimum=0.0,
        maximum=10.0,
    )
    workers_per_host: int = site(
        1, "Workers on every host.", unit="workers", minimum=1, maximum=1024
    )
    host_bandwidth_gbit: float | None = site(
        None,
        "What a worker sends to others of its host. Default: the exchange in a"
        " host is free, as where the step was measured on a whole host.",
        unit="Gbit/s",
        minimum=1e-4,
        maximum=1e6,
    )
    host_latency_seconds: float = site(
        0.0,
        "What a message inside a host takes whatever its length.",
        unit="seconds",
        minimum=0.0,
        maximum=10.0,
    )
    reduction_seconds_per_byte: float = site(
        0.0,
        "Time to add a byte that was received; 0 where it hides behind the"
        " transfer.",
        unit="seconds",
        minimum=0.0,
        maximum=1e-3,
    )
    algorithm: str = site(
        "ring",
        "Allreduce: the ring of Gloo and NCCL, or recursive halving and"
        " doubling.",
        choices=ALGORITHMS,
    )
    hierarchy: str = site(
        "flat",
        "Who runs it: all workers, as with Gloo; the first of every host, after"
        " a sum in the host and before a broadcast; or, for its part of the"
        " buffer each, all workers of a host, as HOROVOD_HIERARCHICAL_ALLREDUCE"
        " does.",
        choices=HIERARCHIES,
    )
    fusion_threshold_mib: float = site(
        128.0,
        "Greatest buffer in which Horovod sums several gradients"
        " (HOROVOD_FUSION_THRESHOLD); 0 sums each alone.",
        unit="MiB",
        minimum=0.0,
        maximum=1e5,
    )
    cycle_seconds: float = site(
        0.001,
        "How often Horovod looks for gradients (HOROVOD_CYCLE_TIME). Without a"
        " GPU hvd_imagenet.train sets 0.01.",
        unit="seconds",
        minimum=0.0,
        maximum=10.0,
    )
    overlap: str = site(
        "layers",
        "layers: gradients leave as their layers are done. whole: all of the"
        " exchange can hide behind all of the backward pass, which no order of"
        " gradients can beat. none: it begins when that has ended.",
        choices=OVERLAPS,
    )
    processor_seconds_per_byte: float = site(
        0.0,
        "Processor time that the exchange of a byte takes from workers that"
        " compute on CPUs: communication_seconds of hvd_imagenet.benchmark"
        " --mode=train with several processes on one host, by the bytes of the"
        " gradients. Where the network is waited for, half of it hides.",
        unit="seconds",
        minimum=0.0,
        maximum=1e-3,
    )
    tail_seconds: float = site(
        0.0,
        "Added to every step with an exchange between hosts. Nothing predicts"
        " it: it is fitted to a measured step of several hosts.",
        unit="seconds",
        minimum=0.0,
        maximum=3600.0,
    )
    fitted: tuple[str, ...] = site(
        (),
        "Names of those of these flags whose values were fitted to measured"
        " scaling; the output says so, as it always does of tail_seconds.",
    )
    max_workers: int = site(
        4096,
        "Predict for one worker, for doublings of it, and for so many.",
        unit="workers",
        minimum=1,
        maximum=1_000_000,
    )
    json_file: str | None = site(
        None,
        "Write the prediction as one JSON object to this file; - for standard"
        " output, without the table.",
    )
    plot: str | None = site(
        None, "Draw the efficiency over the number of workers: a PNG file."
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.step_seconds is None) == (self.measured is None):
            given = "neither" if self.step_seconds is None else "both"
            raise ValueError(
                "--step_seconds, or --measured with a file of"
                " hvd_imagenet.benchmark --mode=train, tells how long a worker"
                f" computes; {given} of the two is given: give one."
            )
        if self.bandwidth_gbit is None:
            raise ValueError(
                "--bandwidth_gbit, what a host's link carries in Gbit/s, is"
                " missing: give it; hvd_imagenet.doctor on two hosts measures"
                " it."
            )
        for name in self.fitted:
            if name not in _FITTABLE:
                raise ValueError(
                    f"--fitted={name} must be one of {', '.join(_FITTABLE)}."
                )
        many = self.max_workers > self.workers_per_host
        if many and self.max_workers % self.workers_per_host:
            raise ValueError(
                f"--max_workers={self.max_workers} do not fill hosts of"
                f" --workers_per_host={self.workers_per_host}; take a multiple"
                " of it."
            )
