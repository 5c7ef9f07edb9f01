"""How long a training step takes on all processes, and what of it what takes.

The step is the training's own, with its batches, accumulation and optimizer.
Callbacks, logs, checkpoints and evaluations are left out, and the learning
rate is zero: weights stay as they are, on all ranks alike, also after steps
that exchange nothing.
"""

import contextlib
import os
from typing import Any

import keras
import tensorflow as tf

from hvd_imagenet import (
    dataset,
    devices,
    distributed,
    environment,
    resnet,
    resnet_layers,
    update_rule,
    wire_choice,
)
from hvd_imagenet.config import Config
from hvd_imagenet.measuring import flops, memory, step_times, training_report
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.measuring.training_report import Job, Rank
from hvd_imagenet.open_data import Data, open_data
from hvd_imagenet.processes import Processes
from hvd_imagenet.world import launched_size

# After the measured ones, for a profile or timeline.
_RECORDED_STEPS = 3


def measure(options: BenchmarkOptions, config: Config) -> dict[str, Any] | None:
    """Measures steps of the training.

    Returns:
        `training_report.report` on the first process, None on the others.

    Raises:
        ValueError: one sentence on what is wrong and the remedy.
    """
    _require_outputs(options)
    processes = distributed.start(
        compression=config.optimization.compression,
        transport=config.optimization.transport,
        xla=config.model.xla,
        timeline=options.timeline_file is not None,
    )
    processes, choice = wire_choice.settle(config, processes)
    world = processes.world
    data = open_data(config, processes)
    _require_steps(options, data, world.size)
    threads = config.data.input_threads or devices.threads_per_process(world)
    phase = data.plan.phase(0)
    keras.utils.set_random_seed(config.run.seed)
    model = resnet.build_model(config.model)
    dtype = tf.as_dtype(config.model.precision)
    batches = dataset.training_batches(
        config, data.plan, data.train, world, threads=threads
    )

    def steps_of(processes: Processes) -> step_times.Run:
        trainer = update_rule.make_trainer(config, model, processes)
        trainer.optimizer.learning_rate = 0.0
        run = step_times.timed(trainer, batches, phase.accumulation_steps)
        run(options.warmup_steps)
        return run

    runs = [steps_of(processes)]
    # Before the comparison takes memory of its own.
    peak_memory = memory.peaks()
    if world.size > 1:
        runs.append(steps_of(Processes(world)))
    processes.barrier()  # All compute at once, as in a step.
    peaks = [flops.matrix_product_peak(dtype)]
    blocks = step_times.in_turn(runs, options.steps, processes)
    processes.barrier()
    peaks.append(flops.matrix_product_peak(dtype))
    _record(options, processes, runs[0])
    own = Rank(
        blocks=blocks[0],
        silent_blocks=blocks[1] if world.size > 1 else None,
        matrix_product_peaks=peaks,
        memory=peak_memory,
    )
    ranks = processes.gather_object(own)
    if not world.is_first:
        return None
    job = Job(
        model=config.model.model,
        image_size=phase.image_size,
        precision=config.model.precision,
        xla=config.model.xla,
        compression=choice.compression
        if choice
        else config.optimization.compression,
        transport=processes.transport,
        source=data.train.description,
        processes=world.size,
        threads_per_process=devices.threads_per_process(world),
        batch_size_per_process=phase.batch_size_per_process,
        accumulation_steps=phase.accumulation_steps,
        warmup_steps=options.warmup_steps,
        forward_multiply_adds=[
            layer.multiply_adds
            for layer in resnet_layers.layers(
                config.model.model,
                num_classes=config.model.num_classes,
                image_size=phase.image_size,
            )
        ],
        variables=environment.describe(os.environ),
    )
    return training_report.report(job, ranks)


def _require_outputs(options: BenchmarkOptions) -> None:
    """Knows before, not after, the work what cannot be written.

    Raises:
        ValueError: a profile or timeline cannot be.
    """
    timeline = options.timeline_file
    if timeline is not None and launched_size(os.environ) is None:
        raise ValueError(
            f"--timeline_file={timeline} is of exchanges, and one process alone"
            " has none; start it with horovodrun, or leave the flag out."
        )
    try:
        if timeline is not None:
            with open(timeline, "a", encoding="utf-8"):
                pass
        if options.profile_dir is not None:
            os.makedirs(options.profile_dir, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{error.filename} cannot be written ({error.strerror}); choose"
            " another."
        ) from error


def _require_steps(
    options: BenchmarkOptions, data: Data, world_size: int
) -> None:
    """Refuses to measure more steps than there are of one size.

    Raises:
        ValueError: says how many there are.
    """
    _, *others = data.plan.phases.phases
    steps = others[0].first_step if others else data.plan.total_steps
    needed = options.steps + options.warmup_steps
    if world_size > 1:
        needed *= 2
    if options.profile_dir is not None:
        needed += _RECORDED_STEPS
    if options.timeline_file is not None:
        needed += _RECORDED_STEPS
    if needed > steps:
        raise ValueError(
            f"--steps={options.steps} and --warmup_steps={options.warmup_steps}"
            f" make {needed} steps with those that are compared or recorded,"
            f" more than the {steps} before the end of the run or its first"
            " phase; lower them or raise --epochs."
        )


def _record(
    options: BenchmarkOptions, processes: Processes, run: step_times.Run
) -> None:
    """Writes the profile and the timeline of some more steps."""
    if options.profile_dir is not None:
        with contextlib.ExitStack() as stack:
            if processes.world.is_first:
                stack.enter_context(
                    tf.profiler.experimental.Profile(options.profile_dir)
                )
            run(_RECORDED_STEPS)
    if options.timeline_file is not None:
        with processes.timeline(os.path.abspath(options.timeline_file)):
            run(_RECORDED_STEPS)
