"""The records of batches, read and laid out for tf.data.

Raw images stand apart from the records they came in: TensorFlow copies strings
at every step of the pipeline, and a part of an array not at all.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvd_imagenet import raw_images
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.sources import Source

# TensorFlow takes a part of a tensor without copying it where it is aligned so.
_ALIGNMENT = 64


# (images, [n] int64; seeds of their augmentation, [n, 2] int64) of batch
# number `number` of this rank.
Order = Callable[[int], tuple[np.ndarray, np.ndarray]]


class Row(NamedTuple):
    """One record on its way through tf.data.

    Attributes:
        record: [] string; see `ReadBatch`.
        label: [] int32.
        start: [] int64.
        shape: [3] int64.
        index: [] int64, number of the image in its split.
        seed: [2] int64, of its augmentation.
        buffer: [bytes] uint8, the raw images of its batch.
    """

    record: tf.Tensor
    label: tf.Tensor
    start: tf.Tensor
    shape: tf.Tensor
    index: tf.Tensor
    seed: tf.Tensor
    buffer: tf.Tensor

    def pixels(self) -> tf.Tensor:
        """[height, width, 3] uint8: the raw image, or nothing."""
        end = self.start + tf.reduce_prod(self.shape)
        return tf.reshape(self.buffer[self.start : end], self.shape)


class ReadBatch(NamedTuple):
    """What was read of a batch.

    Attributes:
        records: [batch] object, bytes: as `Source.read` gives them, without
            the raw image; empty where a corrupt record was skipped.
        labels: [batch] int32; -1 if the label is in the record.
        starts: [batch] int64, first byte of the raw image in `buffer`.
        shapes: [batch, 3] int64, height, width and 3 of the raw image; 0, 0
            and 3 where the record has none.
        buffer: [bytes] uint8, all raw images.
    """

    records: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    shapes: np.ndarray
    buffer: np.ndarray


class Buffers:
    """Memory that is used again once TensorFlow has let go of it.

    The first use of fresh memory takes several times as long as to copy a raw
    image into it.
    """

    def __init__(self):
        self._free: list[np.ndarray] = []

    def take(self, length: int) -> np.ndarray:
        """[length] uint8, not set, at an aligned address."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < length + _ALIGNMENT:
            memory = np.empty(length + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        # Not a plain slice: parts of that would keep `memory`, not the slice.
        array = np.frombuffer(memory.data, np.uint8, length, first)
        weakref.finalize(array, self._free.append, memory)
        return array


def read_batch(
    source: Source, indices: Sequence[int], *, skip: bool, buffers: Buffers
) -> ReadBatch:
    """Reads records.

    Args:
        source: what to read of.
        indices: numbers of the records.
        skip: whether to leave out what cannot be read.
        buffers: memory for raw images.

    Raises:
        CorruptRecordError: a record cannot be read, and `skip` is false.
    """
    count = len(indices)
    records = np.empty(count, object)
    labels = np.empty(count, np.int32)
    starts = np.zeros(count, np.int64)
    shapes = np.tile(np.array([0, 0, 3], np.int64), [count, 1])
    buffer = np.empty(0, np.uint8)
    end = 0
    for place, index in enumerate(indices):
        try:
            record, labels[place] = source.read(int(index))
        except CorruptRecordError:
            if not skip:
                raise
            record, labels[place] = b"", -1  # Nothing decodes this.
        raw = raw_images.find(record) if source.features is not None else None
        if raw is not None:
            length = raw.height * raw.width * 3
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + length
            if end > len(buffer):
                # Enough where the others are as large.
                room = (count - place) * (length + _ALIGNMENT)
                larger = buffers.take(max(start + room, 2 * len(buffer)))
                larger[:start] = buffer[:start]
                buffer = larger
            buffer[start:end] = np.frombuffer(
                record, np.uint8, length, raw.start
            )
            starts[place] = start
            shapes[place] = raw.height, raw.width, 3
            if raw.features_bytes is not None:
                record = record[: raw.features_bytes] + raw_images.NO_IMAGE
        records[place] = record
    return ReadBatch(records, labels, starts, shapes, buffer)


class _Reader:
    """What `rows` calls for every batch."""

    def __init__(self, source: Source, order: Order, skip: bool):
        self._source = source
        self._order = order
        self._skip = skip
        self._buffers = Buffers()

    def read(self, number: np.ndarray) -> tuple[np.ndarray, ...]:
        indices, seeds = self._order(int(number))
        *by_row, buffer = read_batch(
            self._source, indices, skip=self._skip, buffers=self._buffers
        )
        return *by_row, indices, seeds, buffer


def rows(
    source: Source,
    order: Order,
    numbers: range,
    *,
    skip: bool,
    prepare_batch: Callable[[Row], Row] = lambda batch: batch,
) -> tf.data.Dataset:
    """The records of the batches with these consecutive numbers, as `Row`s.

    Args:
        source: what to read of.
        order: which images of it a batch has.
        numbers: of the batches.
        skip: whether to give an empty record for one that cannot be read.
        prepare_batch: what to do in the graph with the rows of a batch
            together, each part of which then has a first dimension more.
    """
    reader = _Reader(source, order, skip)
    # TensorFlow keeps what it calls for as long as the process lives: that is
    # not to be the files and buffers of every data set there ever was.
    read = weakref.WeakMethod(reader.read)

    def read_in_graph(number):
        tensors = tf.numpy_function(
            lambda number: read()(number),
            [number],
            [tf.string, tf.int32, *[tf.int64] * 4, tf.uint8],
        )
        row = Row(*tensors)
        return row._replace(
            record=tf.ensure_shape(row.record, [None]),
            label=tf.ensure_shape(row.label, [None]),
            start=tf.ensure_shape(row.start, [None]),
            shape=tf.ensure_shape(row.shape, [None, 3]),
            index=tf.ensure_shape(row.index, [None]),
            seed=tf.ensure_shape(row.seed, [None, 2]),
            buffer=tf.ensure_shape(row.buffer, [None]),
        )

    def split(batch):
        *by_row, buffer = prepare_batch(batch)
        # All rows of a batch refer to one buffer.
        return tf.data.Dataset.zip(
            tf.data.Dataset.from_tensor_slices(tuple(by_row)),
            tf.data.Dataset.from_tensors(buffer).repeat(),
        )

    # The interpreter lock lets one thread at a time build the answer, a second
    # one waits for the disk meanwhile.
    dataset = tf.data.Dataset.range(numbers.start, numbers.stop).map(
        read_in_graph, num_parallel_calls=2, deterministic=True
    )
    dataset = dataset.flat_map(split)
    # Iterators keep their data set, and that all that it is made of.
    dataset.reader = reader
    return dataset
