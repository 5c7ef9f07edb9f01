"""The batches of a rank as they are taken, and what waiting for them cost."""

import time
import weakref
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf
from absl import logging

from hvd_imagenet import tf_errors
from hvd_imagenet.pipeline import Batch, Pipeline
from hvd_imagenet.sources import Source


class Batches:
    """Iterates over the batches of a rank, one per call of `next`.

    Attributes:
        taken: batches so far.
        latest: the last one, to look at; None before the first.
        is_waiting: whether somebody waits for the next one.
        skipped: records left out so far, by name.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        origins: Iterable[tuple[Pipeline, range]],
        close: Callable[[], None],
    ):
        """Starts reading.

        Args:
            dataset: the batches.
            origins: what makes them, one after the other, and their numbers.
            close: called when there will be no more of them.
        """
        self._iterators = [iter(dataset)]
        # At the latest when the interpreter begins to exit: later a thread that
        # reads cannot have the interpreter lock back, and who ends the iterator
        # would wait for it for ever.
        weakref.finalize(self, self._iterators.clear)
        weakref.finalize(self, close)  # Is called first.
        self._origins = (
            (pipeline, number)
            for pipeline, numbers in origins
            for number in numbers
        )
        self._wait_seconds = 0.0
        self.taken = 0
        self.latest: Batch | None = None
        self.is_waiting = False
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            CorruptRecordError: a record cannot be read, decoded or has an
                unknown label, and on_corrupt is "fail".
        """
        pipeline, number = next(self._origins)
        start = time.perf_counter()
        self.is_waiting = True
        try:
            batch = next(self._iterators[0])
        except tf_errors.ERRORS as error:
            raise (
                pipeline.find_corrupt(number)
                or tf_errors.passing(error)
                or error
            ) from None
        finally:
            self.is_waiting = False
        self.taken += 1
        self.latest = batch
        self._wait_seconds += time.perf_counter() - start
        if pipeline.config.data.on_corrupt == "skip":
            self._note_skipped(batch, pipeline.source)
        return batch

    def take_wait_seconds(self) -> float:
        """Seconds spent waiting for data since the last call."""
        seconds, self._wait_seconds = self._wait_seconds, 0.0
        return seconds

    def _note_skipped(self, batch: Batch, source: Source) -> None:
        indices = batch.indices.numpy()
        for index in indices[(batch.weights.numpy() == 0) & (indices >= 0)]:
            name = source.where(int(index))
            logging.warning("skipped: %s", name)
            self.skipped.append(name)
