"""How fast the input pipelines of all processes are together."""

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hvd_imagenet import devices, distributed
from hvd_imagenet.config import Config
from hvd_imagenet.kernels import random_crop
from hvd_imagenet.measuring import input_cost
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.open_data import open_data
from hvd_imagenet.plan import Plan


def measure(options: BenchmarkOptions, config: Config) -> dict[str, Any] | None:
    """Measures the input pipelines of all processes at once.

    Returns:
        What the first process prints: rates are of all processes together,
        shares the mean over processes, cores those that the processes may use.
        None on the others.

    Raises:
        ValueError: one sentence on what is wrong and the remedy.
    """
    processes = distributed.start()
    world = processes.world
    data = open_data(config, processes)
    plan = data.plan
    _require_batches(plan, options)
    threads = config.data.input_threads or devices.threads_per_process(world)
    processes.barrier()  # All read at once.
    own = input_cost.measure(
        config,
        plan,
        data.train,
        world,
        threads=threads,
        steps=options.steps,
        warmup_steps=options.warmup_steps,
    )
    cores = len(os.sched_getaffinity(0)) if world.local_rank == 0 else 0
    everyone = processes.gather_object((own, cores))
    if not world.is_first:
        return None
    return {
        "mode": "input",
        "processes": world.size,
        "threads_per_process": threads,
        **_together([own for own, _ in everyone], sum(c for _, c in everyone)),
        "images": len(data.train),
        "source": data.train.description,
        "image_size": plan.phase(0).image_size,
        "has_input_kernel": random_crop.find(config.data) is not None,
    }


def _require_batches(plan: Plan, options: BenchmarkOptions) -> None:
    """Refuses to measure more batches than there are of one size.

    Raises:
        ValueError: says how many there are.
    """
    first, *others = plan.phases.phases
    end = others[0].first_step if others else plan.total_steps
    batches = end * first.accumulation_steps
    if options.steps + options.warmup_steps > batches:
        raise ValueError(
            f"--steps={options.steps} and --warmup_steps={options.warmup_steps}"
            f" are more than the {batches} batches of a process before the end"
            " of the run or its first phase; lower them or raise --epochs."
        )


def _together(
    measured: Sequence[Mapping[str, float]], cores: int
) -> dict[str, float]:
    """Rates added, the rest averaged."""
    rate = sum(own["images_per_second"] for own in measured)
    mean = {
        name: statistics.fmean(own[name] for own in measured)
        for name in measured[0]
    }
    return {
        **mean,
        "images_per_second": rate,
        "cores": cores,
        "per_core": rate / cores,
    }
