"""Trains a network on ImageNet-format data, alone or under horovodrun.

    horovodrun -np 8 -H host1:4,host2:4 python -m hvd_imagenet.train \\
        --flagfile=flags/goyal2017.flags --data_dir=DATA --workdir=RUN

A recipe (flags/*.flags) fixes the optimization whatever the number of
processes: fewer processes accumulate. --dry_run shows what a run would do. A
work directory that holds a run is resumed where its last checkpoint ended.

Exit status: 0 at the end of the run; 75 when SIGTERM or SIGINT has stopped it
and it is saved, so that the same command goes on; 130 when a second SIGINT
interrupted it; 1 after an error.
"""

import contextlib
import functools
import os
import sys

from hvd_imagenet import imagenet, program, splits
from hvd_imagenet import plan as plan_lib
from hvd_imagenet.atomic_files import NotWrittenError
from hvd_imagenet.config import Config
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.program import UserError, for_the_user
from hvd_imagenet.world import launched_size

_describe = functools.partial(
    program.describe,
    interrupted="interrupted; the same command resumes from the last"
    " checkpoint.",
)


def main(config: Config) -> int:
    """Runs what the configuration asks for; returns the exit status."""
    try:
        if config.run.dry_run:
            sys.stdout.write(dry_run(config) + "\n")
            return 0
        return train(config)
    except UserError as error:
        sys.stderr.write(f"{_describe(error)}\n")
        return 1
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{_describe(error)}\n")
        return program.INTERRUPTED


def dry_run(config: Config) -> str:
    """The plan as JSON, made without TensorFlow."""
    with for_the_user(ValueError):
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
    """Trains, evaluates and writes the run directory.

    Returns:
        The exit status: 0, or that of a run which was asked to stop.
    """
    # TensorFlow takes seconds to start: not for --help and --dry_run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from hvd_imagenet import elastic, job, job_start, stopping
    from hvd_imagenet.replicas import ReplicaError
    from hvd_imagenet.signals import NonFiniteError
    from hvd_imagenet.supervision.supervisor import supervised

    def train_once(join, begin, watch_ranks=contextlib.nullcontext):
        with for_the_user(ValueError):
            processes = join()
        with supervised(
            processes,
            config.run.stall_timeout_seconds,
            describe=_describe,
            passing=(stopping.Stopped, *elastic.ENDS_OF_ROUNDS),
            ends_all=not config.run.elastic,
        ) as supervisor:
            # Before work starts a ValueError is the user's; later it is ours.
            with watch_ranks(), for_the_user(ValueError):
                start = begin(processes, supervisor)
            with (
                watch_ranks(),
                for_the_user(
                    CorruptRecordError,
                    NonFiniteError,
                    NotWrittenError,
                    ReplicaError,
                ),
            ):
                job.run(start)

    try:
        if config.run.elastic:
            with for_the_user(ValueError):
                elastic_job = elastic.ElasticJob(config)
            elastic_job.repeat(
                lambda: train_once(
                    elastic_job.join, elastic_job.begin, elastic.lost_ranks
                )
            )
        else:
            train_once(
                functools.partial(job_start.join, config),
                functools.partial(job_start.begin, config),
            )
    except stopping.Stopped:
        return program.STOPPED
    return 0


def run() -> None:
    """Parses the command line and runs the program."""
    program.run(main)


if __name__ == "__main__":
    run()
