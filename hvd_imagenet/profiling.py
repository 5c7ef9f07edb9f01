"""A profile of some steps, for TensorBoard: a mark and a Keras callback."""

import keras
import tensorflow as tf
from absl import logging


def step(number: int) -> tf.profiler.experimental.Trace:
    """A context that marks a step, by which a profile shows times per step.

    It does nothing while no profile is taken.

    Args:
        number: of the step, from 1.
    """
    # _r tells the profiler that this is the root of a step.
    return tf.profiler.experimental.Trace("train", step_num=number, _r=1)


class ProfileSteps(keras.callbacks.Callback):
    """Writes what host and devices of this rank do in some steps.

    TensorBoard shows it with the package tensorboard-plugin-profile.
    """

    def __init__(self, folder: str, first: int, last: int):
        """Says which steps.

        Args:
            folder: of TensorBoard.
            first: number of the first step, from 1; the first of a run also
                traces and compiles.
            last: number of the last step.
        """
        super().__init__()
        self._folder = folder
        self._first = first
        self._last = last
        self._is_on = False

    def on_train_batch_begin(self, batch, logs=None):
        if self._first <= batch + 1 <= self._last and not self._is_on:
            self._is_on = self._try(
                tf.profiler.experimental.start, self._folder
            )
            if not self._is_on:
                self._last = 0  # Not again.

    def on_train_batch_end(self, batch, logs=None):
        if self._is_on and batch + 1 >= self._last:
            float(logs["loss"])  # What was begun is to be in it.
            self._end()

    def on_train_end(self, logs=None):
        if self._is_on:
            self._end()

    def _end(self) -> None:
        self._is_on = False
        if self._try(tf.profiler.experimental.stop):
            logging.info("A profile is in %s.", self._folder)

    def _try(self, call, *arguments) -> bool:
        """Calls it; a profile is not worth a training."""
        try:
            call(*arguments)
        except (OSError, tf.errors.OpError) as error:
            logging.warning("There will be no profile: %s", error)
            return False
        return True
