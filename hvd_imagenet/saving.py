"""Saves a run's checkpoints behind its training."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from hvd_imagenet.atomic_files import NotWrittenError
from hvd_imagenet.checkpoints import Checkpoints
from hvd_imagenet.plan import Plan
from hvd_imagenet.trainer import Trainer

# A file server that does not answer blocks its writers for ever. This is
# 0.35 MB/s for ResNet-50 with momentum.
_PATIENCE_SECONDS = 600.0


class NullSaver:
    """Saves nothing: what all ranks but the first do."""

    def save(self, step: int) -> None:
        """Begins to write a checkpoint of the variables as they are now."""

    def wait(self) -> None:
        """Returns when what was begun is written, or has failed."""

    def require_saved(self) -> None:
        """Waits.

        Raises:
            NotWrittenError: the latest checkpoint could not be written.
        """


class Saver(NullSaver):
    """Writes checkpoints in a thread, one at a time.

    `save` takes as long as it takes to copy the variables to memory of its
    own; if the checkpoint before is still being written it waits for that
    first, and training with it. A checkpoint that cannot be written is warned
    of, and training goes on.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        variables: Sequence[keras.Variable],
        facts: Mapping[str, Any],
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ):
        """Takes what to save.

        Args:
            checkpoints: where to write.
            variables: each with a path of its own.
            facts: to keep besides, as JSON.
            patience_seconds: how long to wait for a checkpoint to be written.
                A write that takes longer counts as failed.
        """
        self._checkpoints = checkpoints
        self._variables = variables
        self._facts = facts
        self._patience_seconds = patience_seconds
        # The same memory every time: fresh pages cost more than the copy.
        self._copies: dict[str, np.ndarray] = {}
        self._thread: threading.Thread | None = None
        self._since = 0.0
        self._step = 0
        self._problem: str | None = None
        self._fault: BaseException | None = None

    def save(self, step: int) -> None:
        self.wait()
        self._raise_fault()
        self._step = step
        if self._is_writing():  # The copies are in use.
            self._fail(step, "the one before is still being written")
            return
        for variable in self._variables:
            # A tensor shows its memory; a variable would copy it first.
            value = np.asarray(tf.convert_to_tensor(variable.value))
            if variable.path not in self._copies:
                self._copies[variable.path] = np.empty_like(value)
            np.copyto(self._copies[variable.path], value)
        self._problem = None
        self._since = time.monotonic()
        self._thread = threading.Thread(
            target=self._write, args=(step,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        if not self._is_writing():
            return
        waited = time.monotonic() - self._since
        self._thread.join(max(0.0, self._patience_seconds - waited))
        if self._is_writing() and self._problem is None:
            self._fail(
                self._step, f"not done after {self._patience_seconds:.0f} s"
            )

    def require_saved(self) -> None:
        self.wait()
        self._raise_fault()
        if self._problem is not None:
            raise NotWrittenError(
                f"The last checkpoint, of step {self._step}, is not there:"
                f" {self._problem}. {self._left()}; the same command resumes"
                " from there once it can be written."
            )

    def _write(self, step: int) -> None:
        try:
            self._checkpoints.save(step, self._copies, self._facts)
        except NotWrittenError as error:
            self._fail(step, str(error))
        except BaseException as error:
            # A fault of the program. The next call raises it, unless training
            # has ended by another error.
            logging.exception("The checkpoint of step %d failed.", step)
            self._fault = error
        else:
            if step == self._step:  # Though late, if it was given up.
                self._problem = None

    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _fail(self, step: int, problem: str) -> None:
        self._problem = problem
        logging.warning(
            "The checkpoint of step %d is not there: %s. %s; training goes on"
            " and tries again at the next checkpoint.",
            step,
            problem,
            self._left(),
        )

    def _left(self) -> str:
        try:
            path = self._checkpoints.newest_path
        except OSError as error:
            return f"Those before cannot be listed ({error.strerror})"
        return "There is none before" if path is None else f"{path} stays"

    def _raise_fault(self) -> None:
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault


class SaveCheckpoints(keras.callbacks.Callback):
    """Checkpoints at epoch ends and every `every_steps` steps.

    All ranks take part, as the running statistics are shared first; the saver
    of rank 0 writes. Nothing that ranks do together depends on whether it can.
    """

    def __init__(
        self,
        trainer: Trainer,
        saver: NullSaver,
        plan: Plan,
        *,
        every_steps: int,
    ):
        super().__init__()
        self._trainer = trainer
        self._saver = saver
        self._plan = plan
        self._every_steps = every_steps
        self._saved: int | None = None

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        # Before the evaluation, which may take long and be interrupted.
        if self._plan.is_due(done, self._every_steps):
            self.save(done)

    def on_train_end(self, logs=None):
        self._saver.wait()

    def save(self, step: int) -> None:
        """Checkpoints after `step` steps, once. A collective operation."""
        if step == self._saved:  # Training was stopped there, too.
            return
        self._saved = step
        self._trainer.sync_statistics()
        self._saver.save(step)
