"""What an elastic run goes on from: a copy of its state in memory.

Every rank keeps one, and all are the same, so that any of them can give it to
the others.
"""

from collections.abc import Sequence

import keras
import numpy as np

from hvd_imagenet.membership import Membership
from hvd_imagenet.phases import Begun
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.trainer import Trainer


class WorldChange(Exception):
    """Hosts have come or gone; the last commit is of just now."""


class Commit:
    """A copy of the variables of a run at one of its steps.

    Attributes:
        begun: what was done by then; None before the first copy.
    """

    def __init__(self):
        self.begun: Begun | None = None
        self._arrays: list[np.ndarray] = []

    def take(self, begun: Begun, variables: Sequence[keras.Variable]) -> None:
        """Replaces the copy by one of the variables as they are now."""
        values = (np.asarray(variable.value) for variable in variables)
        if self._arrays:
            # Into the memory of the last one, which is there already.
            for array, value in zip(self._arrays, values, strict=True):
                np.copyto(array, value)
        else:
            self._arrays = [np.array(value) for value in values]
        self.begun = begun

    def put(self, variables: Sequence[keras.Variable]) -> None:
        """Gives the variables the values of the copy."""
        for variable, array in zip(variables, self._arrays, strict=True):
            variable.assign(array)


def find_newest(
    processes: Processes, commit: Commit
) -> tuple[int, Begun] | None:
    """The lowest of the ranks that have the newest commit, and what it is of.

    Rank 0 may be a process that has just begun, and one that was to take a
    commit when another failed may have an older one. A collective operation.

    Returns:
        None if there is no commit.
    """
    steps = processes.gather_object(commit.begun and commit.begun.step)
    known = [step for step in steps if step is not None]
    if not known:
        return None
    root = steps.index(max(known))
    return root, processes.broadcast_object(commit.begun, root)


class TakeCommits(keras.callbacks.Callback):
    """Commits every so many steps and at epoch ends, and looks for new hosts.

    All ranks take part. Comes last, as what is after it is lost when the world
    changes. Raises `WorldChange` then, on all ranks alike.
    """

    def __init__(
        self,
        trainer: Trainer,
        processes: Processes,
        plan: Plan,
        commit: Commit,
        membership: Membership,
        *,
        every_steps: int,
    ):
        """Takes what to commit.

        Args:
            trainer: has the state.
            processes: the ranks.
            plan: steps and epochs.
            commit: what to renew.
            membership: knows about hosts.
            every_steps: steps from one commit to the next.
        """
        super().__init__()
        self._trainer = trainer
        self._processes = processes
        self._plan = plan
        self._commit = commit
        self._membership = membership
        self._every_steps = every_steps
        self._done = 0

    def on_train_batch_end(self, batch, logs=None):
        self._done = batch + 1
        # Before the evaluation, which may be interrupted.
        if self._plan.is_due(self._done, self._every_steps):
            self._renew()
            # At the end it is too late.
            if self._is_outdated() and self._done < self._plan.total_steps:
                raise WorldChange("hosts came or left")

    def on_train_end(self, logs=None):
        if self.model.stop_training:  # By request, which was for one rank.
            self._renew()

    def _renew(self) -> None:
        self._trainer.sync_statistics()
        self._commit.take(
            Begun(step=self._done, phases=self._plan.phases),
            self._trainer.state,
        )

    def _is_outdated(self) -> bool:
        """The same on all ranks."""
        own = np.array([float(self._membership.is_outdated)])
        return self._processes.sum(own)[0] > 0
