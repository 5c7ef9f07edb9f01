"""Measures how fast a part of a run is, alone or under horovodrun.

    python -m hvd_imagenet.benchmark --mode=input --data_dir=DATA \\
        --flagfile=flags/goyal2017.flags

Takes the flags of hvd_imagenet.train. Standard output gets one JSON object:
rates are of all processes together, shares the mean over processes, cores those
that the processes may use. Nothing is trained.
"""

import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app

from hvd_imagenet import flags
from hvd_imagenet.config import Config
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.plan import Plan

_INTERRUPTED = 130  # As shells report a program that SIGINT ended.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    options: BenchmarkOptions
    config: Config


def main(request: Request) -> int:
    """Measures and prints; returns the exit status."""
    # TensorFlow takes seconds to start: not for --help.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        result = _measure_input(request.options, request.config)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    if result is not None:
        sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _measure_input(
    options: BenchmarkOptions, config: Config
) -> dict[str, Any] | None:
    """The input pipelines of all processes at once; None but on the first."""
    from hvd_imagenet import devices, distributed
    from hvd_imagenet.measuring import input_speed
    from hvd_imagenet.open_data import open_data

    processes = distributed.start()
    world = processes.world
    data = open_data(config, processes)
    plan = data.plan
    _require_batches(plan, options)
    threads = config.data.input_threads or devices.threads_per_process(world)
    processes.barrier()  # All read at once.
    own = input_speed.measure(
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


def parse(argv: Sequence[str]) -> Request:
    """What a command line asks for.

    Raises:
        absl.flags.Error: it cannot be understood.
    """
    return Request(
        options=flags.parse_group(BenchmarkOptions, argv),
        config=flags.parse(argv),
    )


def run() -> None:
    """Parses the command line and runs the program."""
    flags.define_group(BenchmarkOptions)
    flags.define()
    app.run(main, flags_parser=lambda argv: flags.parse_or_exit(argv, parse))


if __name__ == "__main__":
    run()
