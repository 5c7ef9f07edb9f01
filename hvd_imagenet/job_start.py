"""Where a training job starts on this rank: checked, planned and resumed."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import keras

from hvd_imagenet import (
    devices,
    distributed,
    first_rank,
    mlperf_log,
    resuming,
    runlog,
    saving,
    wire_choice,
)
from hvd_imagenet.config import Config
from hvd_imagenet.open_data import open_data
from hvd_imagenet.phases import Begun
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.sources import Source
from hvd_imagenet.supervision.supervisor import Supervisor
from hvd_imagenet.trainer import Trainer
from hvd_imagenet.wire_choice import WireChoice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a job has to work with, all of it checked.

    Attributes:
        config: what was asked.
        processes: the ranks, and this one's place among them.
        wire_choice: why gradients travel as they do, if that was left open.
        plan: what they will do.
        train_source: training images.
        validation_source: validation images.
        run_log: the run directory on rank 0, nothing elsewhere.
        threads: threads of the input pipeline.
        supervisor: is told how far this rank is.
        mlperf_log: MLPerf's lines on rank 0, if asked for.
    """

    config: Config
    processes: Processes
    wire_choice: WireChoice | None
    plan: Plan
    train_source: Source
    validation_source: Source
    run_log: runlog.NullRunLog
    threads: int
    supervisor: Supervisor
    mlperf_log: mlperf_log.NullMLPerfLog


class Start(NamedTuple):
    """Where training begins: what `job.run` needs.

    Attributes:
        job: what to do.
        trainer: in the state that follows `first_step` steps, on rank 0.
        saver: saves that state.
        first_step: steps that are done already.
        last_callbacks: called when all else of a step or an epoch is done.
    """

    job: Job
    trainer: Trainer
    saver: saving.NullSaver
    first_step: int
    last_callbacks: Sequence[keras.callbacks.Callback] = ()


def join(config: Config) -> Processes:
    """Joins the other ranks.

    Raises:
        ValueError: one sentence on what is wrong and the remedy.
    """
    return distributed.start(
        compression=config.optimization.compression,
        transport=config.optimization.transport,
        xla=config.model.xla,
    )


def begin(
    config: Config, processes: Processes, supervisor: Supervisor
) -> Start:
    """Begins a run, or goes on from its last checkpoint.

    Raises:
        ValueError: see `prepare` and `resuming.resume`.
    """
    job = prepare(config, processes, supervisor)
    trainer, saver, begun = resuming.resume(
        config, job.plan, job.processes, job.run_log
    )
    return Start(job, trainer, saver, begun.step)


def prepare(
    config: Config,
    processes: Processes,
    supervisor: Supervisor,
    begun: Begun | None = None,
) -> Job:
    """Checks everything that can be wrong, with the other ranks.

    Args:
        config: what was asked.
        processes: the ranks.
        supervisor: of these ranks.
        begun: with `--elastic`, what was done in other worlds.

    Raises:
        ValueError: one sentence on what is wrong and the remedy.
    """
    world = processes.world
    mlperf = mlperf_log.start(config, processes)
    data = open_data(config, processes, begun)
    plan = data.plan
    processes.require_same(
        {
            **config.recipe(),
            "train_images": plan.train_images,
            "validation_images": plan.validation_images,
            "label_offset": data.label_offset,
        }
    )
    processes, choice = wire_choice.settle(config, processes)
    return Job(
        config=config,
        processes=processes,
        wire_choice=choice,
        plan=plan,
        train_source=data.train,
        validation_source=data.validation,
        run_log=first_rank.call(processes, lambda: runlog.RunLog(config))
        or runlog.NullRunLog(),
        threads=config.data.input_threads or devices.threads_per_process(world),
        supervisor=supervisor,
        mlperf_log=mlperf,
    )
