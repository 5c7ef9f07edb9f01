"""The images of batches, read and laid out for tf.data.

They stand in one array per batch: TensorFlow copies strings at every step of
the pipeline, and an array or a part of one not at all.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvd_imagenet.buffers import Buffers, Filling
from hvd_imagenet.encoded_images import ImageReader
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.kernels.random_crop import EncodedImages
from hvd_imagenet.sources import Source

# (images, [n] int64; seeds of their augmentation, [n, 2] int64) of batch
# number `number` of this rank.
Order = Callable[[int], tuple[np.ndarray, np.ndarray]]


class Row(NamedTuple):
    """One image on its way through tf.data, or those of a batch.

    Those of a batch have one dimension more, except for the buffer.

    Attributes:
        encoded: [] string, an image file; empty if the image is in the buffer,
            or if there is none, as it cannot be read.
        label: [] int32, from 0; 0 where there is no image.
        start: [] int64, first byte of the image in `buffer`.
        length: [] int64, bytes of the image there.
        shape: [3] int64, height, width and 3 of a raw image; 0, 0 and 3 if it
            is none.
        index: [] int64, number of the image in its split.
        seed: [2] int64, of its augmentation.
        buffer: [bytes] uint8, images of the batch.
    """

    encoded: tf.Tensor
    label: tf.Tensor
    start: tf.Tensor
    length: tf.Tensor
    shape: tf.Tensor
    index: tf.Tensor
    seed: tf.Tensor
    buffer: tf.Tensor

    def pixels(self) -> tf.Tensor:
        """[height, width, 3] uint8: the raw image, or nothing."""
        end = self.start + tf.reduce_prod(self.shape)
        return tf.reshape(self.buffer[self.start : end], self.shape)

    def images(self) -> EncodedImages:
        """Of a batch: all images in the buffer."""
        return EncodedImages(self.buffer, self.start, self.length, self.shape)


class BatchReader:
    """Reads batches into arrays."""

    def __init__(
        self, source: Source, num_classes: int, *, skip: bool, compiled: bool
    ):
        """Says what is wanted.

        Args:
            source: what to read of.
            num_classes: labels there may be.
            skip: whether to leave out what cannot be read.
            compiled: whether all images go into the buffer, for the compiled
                operation: JPEGs and raw images; others are decoded. If not,
                raw images go there.
        """
        self._images = ImageReader(source, num_classes, decodes_others=compiled)
        self._skip = skip
        self._compiled = compiled
        self._buffers = Buffers()

    def read(
        self, indices: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, EncodedImages]:
        """The images with these numbers.

        Returns:
            (`Row.encoded` and `Row.label` of all, [n] object and [n] int32; the
            images in the buffer, in arrays of NumPy).

        Raises:
            CorruptRecordError: one cannot be read, and `skip` is false.
        """
        count = len(indices)
        encoded = np.full(count, b"", object)
        labels = np.zeros(count, np.int32)
        starts, lengths = np.zeros([2, count], np.int64)
        shapes = np.tile(np.array([0, 0, 3], np.int64), [count, 1])
        filling = Filling(self._buffers, count)
        for place, index in enumerate(indices):
            try:
                image = self._images.read(int(index))
            except CorruptRecordError:
                if not self._skip:
                    raise
                continue
            data, start, length, shape, labels[place] = image
            shapes[place, :2] = shape
            if self._compiled or shape[0]:
                starts[place] = filling.put(data, start, length)
                lengths[place] = length
            else:
                encoded[place] = data[start : start + length]
        images = EncodedImages(filling.array, starts, lengths, shapes)
        return encoded, labels, images


def batches(
    reader: BatchReader, order: Order, numbers: range
) -> tf.data.Dataset:
    """The batches with these consecutive numbers, each as a `Row`.

    Args:
        reader: what reads them.
        order: which images a batch has.
        numbers: of the batches.
    """

    def read(number: np.ndarray) -> tuple[np.ndarray, ...]:
        indices, seeds = order(int(number))
        encoded, labels, images = reader.read(indices)
        buffer, *by_row = images
        return encoded, labels, *by_row, indices, seeds, buffer

    # TensorFlow keeps what it calls for as long as the process lives: that is
    # not to be the files and buffers of every data set there ever was.
    weak_read = weakref.ref(read)

    def read_in_graph(number: tf.Tensor) -> Row:
        tensors = tf.numpy_function(
            lambda number: weak_read()(number),
            [number],
            [tf.string, tf.int32, *[tf.int64] * 5, tf.uint8],
        )
        row = Row(*tensors)
        shapes = row._replace(
            **{field: [None] for field in Row._fields},
        )._replace(shape=[None, 3], seed=[None, 2])
        return Row(*map(tf.ensure_shape, row, shapes))

    # The interpreter lock lets one thread at a time build the answer, a second
    # one waits for the disk meanwhile.
    dataset = tf.data.Dataset.range(numbers.start, numbers.stop).map(
        read_in_graph, num_parallel_calls=2, deterministic=True
    )
    # Iterators keep their data set, and that all that it is made of.
    dataset.read = read
    return dataset


def rows(reader: BatchReader, order: Order, numbers: range) -> tf.data.Dataset:
    """The images of `batches`, one by one: (all of a `Row` but its buffer, it).

    Args:
        reader: as in `batches`.
        order: as in `batches`.
        numbers: as in `batches`.
    """

    def split(batch: Row) -> tf.data.Dataset:
        *by_row, buffer = batch
        # All rows of a batch refer to one buffer.
        return tf.data.Dataset.zip(
            tf.data.Dataset.from_tensor_slices(tuple(by_row)),
            tf.data.Dataset.from_tensors(buffer).repeat(),
        )

    return batches(reader, order, numbers).flat_map(split)
