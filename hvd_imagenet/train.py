"""Trains a network on ImageNet-format data, alone or under horovodrun.

    horovodrun -np 8 -H host1:4,host2:4 python -m hvd_imagenet.train \\
        --flagfile=flags/goyal2017.flags --data_dir=DATA --workdir=RUN

A recipe (flags/*.flags) fixes the optimization whatever the number of
processes: fewer processes accumulate. --dry_run shows what a run would do. A
work directory that holds a run is resumed where its last checkpoint ended.
"""

import contextlib
import dataclasses
import os
import socket
import sys
from typing import Any

from absl import app

from hvd_imagenet import flags, imagenet, splits
from hvd_imagenet import plan as plan_lib
from hvd_imagenet.config import Config
from hvd_imagenet.world import launched_size


def main(config: Config) -> int:
    """Runs what the configuration asks for; returns the exit status."""
    try:
        if config.run.dry_run:
            sys.stdout.write(dry_run(config) + "\n")
            return 0
        return train(config)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            "interrupted; the same command resumes from the last checkpoint.\n"
        )
        return 130


class UserError(Exception):
    """What was asked cannot be done; the message is for the user."""


def dry_run(config: Config) -> str:
    """The plan as JSON, made without TensorFlow."""
    with _user_errors():
        train_images = config.data.train_images
        validation_images = config.data.validation_images
        if config.data.data_dir is not None:
            train_images = len(splits.open_split(config, "train"))
            validation_images = len(splits.open_split(config, "validation"))
        plan = plan_lib.make_plan(
            config,
            world_size=config.run.world_size or launched_size(os.environ) or 1,
            train_images=train_images or imagenet.TRAIN_IMAGES,
            validation_images=validation_images or imagenet.VALIDATION_IMAGES,
        )
    return plan.as_json()


def train(config: Config) -> int:
    """Trains, evaluates and writes the run directory."""
    # TensorFlow takes seconds to start: not for --help and --dry_run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    from hvd_imagenet import (
        callbacks,
        checkpoints,
        dataset,
        distributed,
        monitors,
        runlog,
        tfrecords,
    )
    from hvd_imagenet.trainer import Trainer

    # --- Where this process is, what it is to do, and with what data. ---
    with _user_errors():
        processes = distributed.start(
            compression=config.optimization.compression
        )
        world = processes.world
        # One process per host walks through the data files, the others then
        # find the index that it has left.
        if world.local_rank != 0:
            processes.barrier()
        train_source = splits.open_split(config, "train")
        validation_source = splits.open_split(config, "validation")
        if world.local_rank == 0:
            processes.barrier()
        plan = plan_lib.make_plan(
            config,
            world_size=world.size,
            train_images=len(train_source),
            validation_images=len(validation_source),
        )
        _require_same_everywhere(
            processes,
            {
                **config.recipe(),
                "train_images": plan.train_images,
                "validation_images": plan.validation_images,
            },
        )
        run_log = (
            runlog.RunLog(config) if world.is_first else runlog.NullRunLog()
        )

    # --- The model, as it was when it was last saved. ---
    keras.utils.set_random_seed(config.run.seed)
    trainer = Trainer(
        *_model_and_optimizer(config),
        processes,
        batch_size_per_process=plan.batch_size_per_process,
        accumulation_steps=plan.accumulation_steps,
        bn_statistics=config.model.bn_statistics,
    )
    saved = checkpoints.Checkpoints(
        os.path.join(config.run.workdir or "", "checkpoints"),
        keep=config.run.keep_checkpoints,
    )
    facts = {
        **config.recipe(),
        "global_batch_size": plan.global_batch_size,
        "train_images": plan.train_images,
    }
    first_step = 0
    with _user_errors():
        if world.is_first:
            first_step = saved.restore(trainer.state, facts)
    first_step = processes.broadcast_object(first_step)

    # --- The images. ---
    threads = config.data.input_threads or distributed.threads_per_process(
        world
    )
    batches = dataset.training_batches(
        config,
        plan,
        train_source,
        world,
        threads=threads,
        first_step=first_step,
    )

    def evaluate() -> dict[str, Any]:
        validation = dataset.evaluation_batches(
            config, plan, validation_source, world, threads=threads
        )
        totals = trainer.evaluate(
            validation,
            steps=plan.evaluation_steps,
            examples=plan.validation_images,
        )
        counts = {"examples": int(totals.examples)}
        if totals.skipped:
            counts["skipped"] = int(totals.skipped)
        return {**totals.means(), **counts}

    result = {}

    def evaluate_epoch(epoch: int) -> dict[str, Any]:
        every = config.run.evaluation_every_epochs
        if (epoch + 1) % every and epoch + 1 != plan.epochs:
            return {}
        result.update(evaluate())
        return {f"val_{name}": value for name, value in result.items()}

    # --- Training. ---
    run_log.begin(
        plan,
        {
            "world": dataclasses.asdict(world),
            "threads_per_process": threads,
            "variables": distributed.describe_environment(os.environ),
        },
        first_step,
    )
    run_log.line(_headline(config, plan, first_step))
    log = monitors.LogMetrics(
        trainer,
        processes,
        plan,
        batches,
        run_log,
        log_steps=config.run.log_steps,
        prints_steps=not sys.stdout.isatty(),
    )
    calls = [
        callbacks.BroadcastState(processes),
        *callbacks.learning_rate_callbacks(
            plan,
            config.optimization.base_learning_rate,
            config.optimization.base_batch_size,
            first_step,
        ),
        log,
        monitors.SaveCheckpoints(
            trainer,
            saved,
            facts,
            plan,
            writes=world.is_first,
            every_steps=config.run.checkpoint_steps,
        ),
    ]
    if world.is_first and sys.stdout.isatty():
        calls.append(monitors.ProgressBar(plan, log))
    try:
        trainer.fit(
            plan,
            batches,
            callbacks=calls,
            first_step=first_step,
            evaluate=evaluate_epoch,
        )
        if first_step == plan.total_steps:  # Nothing was left to train.
            result.update(evaluate())
    except (tfrecords.CorruptRecordError, FloatingPointError) as error:
        raise UserError(f"rank {world.rank}: {error}") from error
    finally:
        run_log.close()

    # --- What came out. ---
    result.update(epochs=plan.epochs, images_per_second=log.images_per_second)
    run_log.finish(result)
    run_log.line(
        f"result: top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%},"
        f" loss {result['loss']:.4f} on {result['examples']} images"
    )
    return 0


def _model_and_optimizer(config: Config) -> tuple[Any, Any]:
    """The network and its update rule."""
    import keras

    from hvd_imagenet import optimizers, resnet

    optimizer = optimizers.MomentumSGD(
        momentum=config.optimization.momentum,
        nesterov=config.optimization.nesterov,
        weight_decay=config.optimization.weight_decay,
    )
    if config.model.precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return resnet.build_model(config.model), optimizer


def _require_same_everywhere(processes: Any, facts: dict[str, Any]) -> None:
    """Ranks with other flags or other data would wait for each other."""
    first = processes.broadcast_object(facts)
    for name, value in facts.items():
        if value != first[name]:
            raise ValueError(
                f"{name} is {value} on rank {processes.world.rank}"
                f" ({socket.gethostname()}) and {first[name]} on rank 0; give"
                " all hosts the same flags and data."
            )


def _headline(config: Config, plan: plan_lib.Plan, first_step: int) -> str:
    """One line on what begins."""
    words = [
        f"{config.model.model} on {plan.train_images} images",
        f"{plan.world_size} processes x {plan.accumulation_steps} x"
        f" {plan.batch_size_per_process} = {plan.global_batch_size} images per"
        " step",
        f"{plan.epochs} epochs = {plan.total_steps} steps",
    ]
    if first_step:
        words.append(f"resumed at step {first_step}")
    return ", ".join(words)


@contextlib.contextmanager
def _user_errors():
    """Before work starts a ValueError is the user's; later it is ours."""
    try:
        yield
    except ValueError as error:
        raise UserError(error) from error


def run() -> None:
    """Parses the command line and runs the program."""
    flags.define()
    app.run(main, flags_parser=flags.parse_or_exit)


if __name__ == "__main__":
    run()
