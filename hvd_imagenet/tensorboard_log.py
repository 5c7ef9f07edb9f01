"""What TensorBoard shows of a run: curves, pictures, tables, hyperparameters.

To write it is worth trying and never worth a training: see `attempts`.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams import api_pb2, summary

from hvd_imagenet.attempts import Attempts

# Of some hundred records.
_ROOM_BYTES = 1 << 16
# Of the hyperparameters: the folder itself, of which the kinds are part.
_ROOT = ""
_RESULTS = {"top1": "top-1", "top5": "top-5", "loss": "loss"}


class TensorBoardLog:
    """Writes the event files of a run, one for each kind of measurement."""

    def __init__(self, folder: str):
        """Names the folder; it is made by the first record.

        Args:
            folder: where kinds have folders of their own.
        """
        self._folder = folder
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._attempts = Attempts("TensorBoard records")

    @property
    def losses(self) -> str:
        """A sentence on what was lost; "" if nothing was."""
        return self._attempts.losses

    def curves(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of some curves.

        Args:
            kind: its folder, as "train".
            step: steps done.
            values: value by the name of the curve.
        """

        def draw():
            for name, value in values.items():
                tf.summary.scalar(name, value)

        self._write(kind, step, draw)

    def image(
        self, kind: str, name: str, step: int, pixels: np.ndarray
    ) -> None:
        """Adds a picture, [height, width, 3] uint8, RGB."""
        self._write(kind, step, lambda: tf.summary.image(name, pixels[None]))

    def text(self, kind: str, name: str, step: int, markdown: str) -> None:
        """Adds a text, as a table."""
        self._write(kind, step, lambda: tf.summary.text(name, markdown))

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Writes the hyperparameters, which the HParams page compares runs by.

        Args:
            recipe: value by name; those that are None are left out.
        """
        values = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in recipe.items()
            if value is not None
        }

        def draw():
            hparams.hparams_config(
                hparams=[hparams.HParam(name) for name in values],
                metrics=[
                    hparams.Metric(name, group="validation", display_name=shown)
                    for name, shown in _RESULTS.items()
                ],
            )
            hparams.hparams(values)

        self._write(_ROOT, 0, draw)

    def end(self) -> None:
        """Says there that the run has reached its end."""
        message = summary.session_end_pb(api_pb2.STATUS_SUCCESS, time.time())
        data = message.SerializeToString()
        self._write(
            _ROOT,
            0,
            lambda: tf.summary.experimental.write_raw_pb(data, step=0),
        )

    def close(self) -> None:
        """Ends it; all of it has been flushed."""
        for writer in self._writers.values():
            with contextlib.suppress(tf.errors.OpError):
                writer.close()
        self._writers = {}

    def _write(self, kind: str, step: int, draw: Callable[[], None]) -> None:
        with self._attempts.one():
            folder = os.path.join(self._folder, kind)
            os.makedirs(folder, exist_ok=True)
            # After an error a file may end within a record, and what is behind
            # that is not read: then there is no writer here any more.
            writer = self._writers.pop(kind, None)
            # TensorFlow does not see that its file was removed.
            if writer is None or not os.listdir(folder):
                # Else a full disk gets a new file with every attempt.
                _require_room(folder)
                writer = tf.summary.create_file_writer(folder)
            with writer.as_default(step):
                draw()
            writer.flush()
            self._writers[kind] = writer


def _require_room(folder: str) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_ROOM_BYTES))
        file.flush()
        os.fsync(file.fileno())
