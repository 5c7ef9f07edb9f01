"""A job that goes on when processes fail, leave or join.

A round is what happens in one world: the ranks join, plan for as many as they
are, take the state of whoever has the newest commit, and train until the end
or until the world changes.
"""

import dataclasses
import gc
from collections.abc import Callable
from typing import TypeVar

import keras
from absl import logging

from hvd_imagenet import commits, job_start, phases, resuming, update_rule
from hvd_imagenet.commits import Commit, TakeCommits, WorldChange
from hvd_imagenet.config import Config
from hvd_imagenet.job_start import Job, Start
from hvd_imagenet.membership import LostRanksError, Membership, lost_ranks
from hvd_imagenet.phases import Begun
from hvd_imagenet.plan import make_plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.runlog import NullRunLog
from hvd_imagenet.stopping import Stopped
from hvd_imagenet.supervision.supervisor import Supervisor
from hvd_imagenet.trainer import Trainer

# So often a world may end before its first commit.
_FRUITLESS_ROUNDS = 10

# After these the ranks join again.
ENDS_OF_ROUNDS = (LostRanksError, WorldChange)

T = TypeVar("T")


class ElasticJob:
    """A job in one world after another, on this process."""

    def __init__(self, config: Config):
        """Joins nobody yet.

        Raises:
            ValueError: what was asked cannot be done with `--elastic`.
        """
        if config.data.shuffle == "buffered":
            raise ValueError(
                "--shuffle=buffered deals the images of an epoch to the"
                " processes that begin it; --elastic needs --shuffle=global."
            )
        self._config = config
        self._membership = Membership(
            config.optimization.compression, xla=config.model.xla
        )
        self._commit = Commit()
        self._trainer: Trainer | None = None
        self._run_log = NullRunLog()

    def repeat(self, train_round: Callable[[], T]) -> T:
        """Calls `train_round` until it is through in one world.

        It must call `join` and `begin`.

        Raises:
            LostRanksError: there is no progress any more.
            Stopped: this process was asked to stop.
        """
        fruitless, last = 0, None
        while True:
            try:
                with lost_ranks():
                    return train_round()
            except Stopped:
                if self._trainer.asks_to_stop:
                    raise
                logging.warning("a process was asked to stop: joining again")
            except ENDS_OF_ROUNDS as error:
                begun = self._commit.begun
                fruitless = fruitless + 1 if begun == last else 0
                last = begun
                if fruitless > _FRUITLESS_ROUNDS:
                    raise
                logging.warning("%s: joining again", error)
            # Where the round ended before it began to train.
            self._run_log.close()
            self._run_log = NullRunLog()
            # Its reading threads and buffers end with what refers to them.
            gc.collect()

    def join(self) -> Processes:
        """Joins those who are there now. See `Membership.join`."""
        return self._membership.join()

    def begin(self, processes: Processes, supervisor: Supervisor) -> Start:
        """Brings all ranks to the newest state there is.

        A collective operation.

        Raises:
            ValueError: one sentence on what is wrong and the remedy.
        """
        config = self._config
        newest = commits.find_newest(processes, self._commit)
        begun = newest and newest[1]
        job = job_start.prepare(config, processes, supervisor, begun)
        self._run_log = job.run_log
        root = 0
        if newest is None:
            # Names begin again, too, if this is not the first time.
            keras.utils.clear_session()
            trainer, saver, begun = resuming.resume(
                config, job.plan, job.processes, job.run_log
            )
            self._trainer = trainer
            job = _planned_from(job, begun)
        else:
            root = newest[0]
            if self._trainer is None:
                model = resuming.build_model(config)
                self._trainer = update_rule.make_trainer(
                    config, model, job.processes
                )
            trainer = self._trainer
            trainer.join(job.processes)
            saver = resuming.Saved.of(config, job.plan).saver(
                trainer, processes
            )
            if processes.world.rank == root:
                self._commit.put(trainer.state)
        processes.broadcast(trainer.state, root)
        self._commit.take(
            Begun(step=begun.step, phases=job.plan.phases), trainer.state
        )
        _warn_of_other_batches(job, begun.step)
        take_commits = TakeCommits(
            trainer,
            processes,
            job.plan,
            self._commit,
            self._membership,
            every_steps=config.run.commit_steps,
        )
        return Start(job, trainer, saver, begun.step, (take_commits,))


def _planned_from(job: Job, begun: Begun) -> Job:
    """The job with a plan for what is left after `begun`."""
    plan = make_plan(
        job.config,
        world_size=job.plan.world_size,
        train_images=job.plan.train_images,
        validation_images=job.plan.validation_images,
        begun=begun,
    )
    return dataclasses.replace(job, plan=plan)


def _warn_of_other_batches(job: Job, step: int) -> None:
    config, plan = job.config, job.plan
    epochs = (0.0, *(config.phases.phase_epochs or ()))
    asked = dict(zip(epochs, phases.asked_batch_sizes(config), strict=True))
    for phase in plan.phases.phases:
        batch = asked[phase.epoch]
        if batch in (None, phase.global_batch_size) or phase.first_step < step:
            continue
        job.run_log.line(
            f"warning: --global_batch_size={batch} cannot be shared by"
            f" {plan.world_size} processes with batches of"
            f" {phase.batch_size_per_process}; from step {phase.first_step} on"
            f" steps have {phase.global_batch_size} images, and the learning"
            f" rate is {phase.global_batch_size / batch:.3g} times the recipe's"
        )
