"""One training job on this rank: from where it starts to its result."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

from hvd_imagenet import (
    callbacks,
    confusion,
    dataset,
    environment,
    first_rank,
    layer_norms,
    monitors,
    profiling,
    progress,
    replicas,
    saving,
    seen_images,
    stopping,
    training_loop,
    update_rule,
)
from hvd_imagenet.atomic_files import NotWrittenError
from hvd_imagenet.batches import Batches
from hvd_imagenet.config import Config
from hvd_imagenet.evaluation import Answers
from hvd_imagenet.job_start import Job, Start
from hvd_imagenet.plan import Plan
from hvd_imagenet.runlog import NullRunLog
from hvd_imagenet.supervision.supervisor import Progress
from hvd_imagenet.trainer import Trainer


def run(start: Start) -> dict[str, Any]:
    """Trains to the end, evaluates and writes the run.

    Returns:
        The content of `result.json`.

    Raises:
        CorruptRecordError: a record cannot be used.
        NonFiniteError: a loss or a gradient is inf or nan.
        ReplicaError: ranks hold different weights or optimizer state.
        Stopped: the run was asked to stop, and is saved.
        NotWrittenError: training has ended, but the result or the last
            checkpoint could not be written; or it cannot begin.
    """
    job, trainer, saver, first_step, last_callbacks = start
    config, plan, run_log = job.config, job.plan, job.run_log
    batches = dataset.training_batches(
        config,
        plan,
        job.train_source,
        job.processes.world,
        threads=job.threads,
        first_step=first_step,
    )
    log = monitors.LogMetrics(
        trainer,
        job.processes,
        plan,
        batches,
        run_log,
        log_steps=config.run.log_steps,
        prints_steps=not progress.is_terminal(sys.stdout),
    )
    saves = saving.SaveCheckpoints(
        trainer, saver, plan, every_steps=config.run.checkpoint_steps
    )
    result = {}

    def evaluate_epoch(epoch: int) -> dict[str, Any]:
        job.supervisor.at(plan.epoch_end_step(epoch), "evaluating")
        every = config.run.evaluation_every_epochs
        if (epoch + 1) % every and epoch + 1 != plan.epochs:
            return {}
        job.mlperf_log.evaluation_begins(epoch)
        result.update(_evaluate(job, trainer, plan.epoch_end_step(epoch)))
        return {f"val_{name}": value for name, value in result.items()}

    first_rank.call(
        job.processes,
        lambda: run_log.begin(plan, _environment(job), first_step),
    )
    try:
        job.mlperf_log.begin(plan)
        run_log.line(_headline(config, plan, first_step))
        for split, description in _descriptions(job).items():
            run_log.line(f"{split}: {description}")
        if job.wire_choice is not None:
            run_log.line(job.wire_choice.line)
        with stopping.StopRequests() as requests:
            done = training_loop.fit(
                trainer,
                plan,
                batches,
                callbacks=[
                    *_callbacks(
                        job, trainer, batches, first_step, requests, log, saves
                    ),
                    *last_callbacks,
                ],
                first_step=first_step,
                evaluate=evaluate_epoch,
            )
            if trainer.model.stop_training:
                _stop(job, saves, saver, done)
        result.update(
            epochs=plan.epochs, images_per_second=log.pace.images_per_second
        )
        run_log.line(progress.summary(result, log.pace, config.run.workdir))
        _require_written(lambda: run_log.finish(result), saver.require_saved)
    finally:
        try:
            saver.wait()
        finally:
            run_log.close()
    return result


def _stop(
    job: Job,
    saves: saving.SaveCheckpoints,
    saver: saving.NullSaver,
    step: int,
) -> None:
    """Ends a run that was asked to stop after `step` steps."""
    saves.save(step)
    # A launcher ends the others as soon as one has gone.
    first_rank.call(job.processes, saver.require_saved)
    job.run_log.line(
        f"stopped on request after step {step}; the same command goes on there."
    )
    raise stopping.Stopped


def _require_written(*endings: Callable[[], None]) -> None:
    """Tries all, and raises what any of them raised."""
    problems = []
    for end in endings:
        try:
            end()
        except NotWrittenError as error:
            problems.append(str(error))
    if problems:
        raise NotWrittenError("; ".join(problems))


def _callbacks(
    job: Job,
    trainer: Trainer,
    batches: Batches,
    first_step: int,
    requests: stopping.StopRequests,
    log: monitors.LogMetrics,
    saves: saving.SaveCheckpoints,
) -> list[keras.callbacks.Callback]:
    config, plan = job.config, job.plan
    calls = [
        Progress(job.supervisor, batches),
        job.mlperf_log,
        callbacks.BroadcastState(job.processes, trainer.average.variables),
        *update_rule.step_callbacks(config, plan, first_step),
        stopping.StopTogether(
            trainer,
            job.processes,
            requests,
            plan,
            settle_every_steps=config.run.checkpoint_steps,
        ),
        replicas.CheckReplicas(
            trainer, job.processes, plan, config.run, job.run_log.line
        ),
        log,
        saves,
    ]
    if job.processes.world.is_first:
        calls.extend(_of_first_rank(job, trainer, batches, log))
    return calls


def _of_first_rank(
    job: Job, trainer: Trainer, batches: Batches, log: monitors.LogMetrics
) -> Iterator[keras.callbacks.Callback]:
    """What looks at the run from rank 0, and exchanges nothing."""
    plan, run_log, asked = job.plan, job.run_log, job.config.run
    yield layer_norms.LogLayerNorms(
        trainer, plan, run_log, every_steps=asked.layer_norm_steps
    )
    yield seen_images.LogImages(plan, batches, run_log)
    if asked.profile_steps is not None:
        folder = os.path.join(asked.workdir, "tensorboard")
        yield profiling.ProfileSteps(folder, *asked.profile_steps)
    if progress.is_terminal(sys.stdout):
        yield progress.LiveLine(plan, log, sys.stdout)


def _evaluate(job: Job, trainer: Trainer, step: int) -> dict[str, Any]:
    batches = dataset.evaluation_batches(
        job.config,
        job.plan,
        job.validation_source,
        job.processes.world,
        threads=job.threads,
    )
    job.supervisor.watch(batches)
    evaluation = trainer.evaluate(
        batches,
        steps=job.plan.evaluation_steps,
        examples=job.plan.validation_images,
    )
    if job.processes.world.is_first:
        _show_worst_classes(job.run_log, step, evaluation.answers)
    return evaluation.result()


def _show_worst_classes(
    run_log: NullRunLog, step: int, answers: Answers
) -> None:
    worst = confusion.worst(confusion.by_class(answers))
    table = confusion.markdown(worst)
    run_log.text("validation", "worst_classes", step, table)
    picture = confusion.picture(worst)
    # Another name: TensorBoard takes what has one name for one kind of thing.
    run_log.image("validation", "confusion", step, picture)


def _environment(job: Job) -> dict[str, Any]:
    return {
        "world": dataclasses.asdict(job.processes.world),
        "threads_per_process": job.threads,
        "data": _descriptions(job),
        "transport": job.processes.transport,
        "wire": job.wire_choice and dataclasses.asdict(job.wire_choice),
        "variables": environment.describe(os.environ),
    }


def _descriptions(job: Job) -> dict[str, str]:
    return {
        "train": job.train_source.description,
        "validation": job.validation_source.description,
    }


def _headline(config: Config, plan: Plan, first_step: int) -> str:
    phase = plan.phase(first_step)
    words = [
        f"{config.model.model} on {plan.train_images} images",
        f"processes {plan.world_size} x micro-batches"
        f" {phase.accumulation_steps} x images {phase.batch_size_per_process} ="
        f" {phase.global_batch_size} images per step",
        f"{plan.epochs} epochs = {plan.total_steps} steps",
    ]
    if len(plan.phases.phases) > 1:
        words.append(f"{len(plan.phases.phases)} phases")
    if first_step:
        words.append(f"resumed at step {first_step}")
    return ", ".join(words)
