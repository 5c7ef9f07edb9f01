"""Metrics of a run, to a file of JSON lines and to TensorBoard.

To write them is worth trying and never worth a training: what fails is warned
of once, counted, and tried again with the next metrics.
"""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping

import tensorflow as tf
from absl import logging

from hvd_imagenet import atomic_files

KINDS = ("train", "validation")
# In metrics.jsonl alone: TensorBoard's horizontal axis, and a constant.
_NO_CURVES = {"epoch", "examples"}
# Of some hundred records of TensorBoard.
_ROOM_BYTES = 1 << 16


class Attempts:
    """Counts what of one kind could not be written."""

    def __init__(self, what: str):
        """Names what is counted.

        Args:
            what: in the plural.
        """
        self._what = what
        self._count = 0
        self._lost = 0
        self._first = ""

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Within it one is written; that this fails goes no further."""
        self._count += 1
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self._lost += 1
            if self._lost == 1:
                self._first = _reason(error)
                logging.warning(
                    "%s cannot be written (%s); training goes on without.",
                    self._what,
                    self._first,
                )

    @property
    def losses(self) -> str:
        """A sentence on what is lost; "" if nothing is."""
        if not self._lost:
            return ""
        return (
            f"{self._lost} of {self._count} {self._what} could not be written"
            f" ({self._first})"
        )


class MetricsLog:
    """Writes metrics.jsonl and tensorboard/ of a run directory."""

    def __init__(self, directory: str, first_step: int):
        """Drops what a resumed run will measure again.

        Args:
            directory: is there.
            first_step: steps done.

        Raises:
            NotWrittenError: the directory cannot be written.
        """
        self._path = os.path.join(directory, "metrics.jsonl")
        self._folder = os.path.join(directory, "tensorboard")
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._lines = Attempts("lines of metrics.jsonl")
        self._curves = Attempts("TensorBoard records")
        self._forget_after(first_step)

    def add(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Writes measured values.

        Args:
            kind: one of KINDS.
            step: steps done.
            values: value by name.
        """
        record = {"kind": kind, "step": step, **values}
        # JSON has no nan; a diverged loss must not make the file unreadable.
        record = {
            name: None
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for name, value in record.items()
        }
        with self._lines.one():
            _append(self._path, json.dumps(record) + "\n")
        with self._curves.one():
            self._add_curves(kind, step, values)

    def close(self) -> list[str]:
        """Ends it.

        Returns:
            Sentences on what was lost.
        """
        for writer in self._writers.values():
            # All of it has been flushed.
            with contextlib.suppress(tf.errors.OpError):
                writer.close()
        self._writers = {}
        return [a.losses for a in (self._lines, self._curves) if a.losses]

    def _add_curves(self, kind, step, values) -> None:
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
            for name in values.keys() - _NO_CURVES:
                tf.summary.scalar(name, values[name])
        writer.flush()
        self._writers[kind] = writer

    def _forget_after(self, step: int) -> None:
        if not os.path.exists(self._path):
            return
        kept = []
        with open(self._path, encoding="utf-8", errors="replace") as file:
            for line in file:
                # Less a line that was cut or damaged.
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    # The epoch that ends there is evaluated again.
                    last = step - (record["kind"] == "validation")
                    if record["step"] <= last and line[-1] == "\n":
                        kept.append(line)
        atomic_files.write_text(self._path, "".join(kept))


def _append(path: str, line: str) -> None:
    """Adds a whole line, or nothing.

    Opened every time: to a file that was removed one could write for ever.
    """
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        data = line.encode()
        try:
            while data:  # What is full takes a part, and then says so.
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


def _require_room(folder: str) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_ROOM_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Before that stands the operation that failed.
    return error.message.rpartition("}} ")[2].splitlines()[0]
