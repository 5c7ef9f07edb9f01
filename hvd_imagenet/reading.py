"""The images of batches, read and laid out for tf.data.

They stand in one array per batch: TensorFlow copies strings at every step of
the pipeline, and an array or a part of one not at all.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvd_imagenet import decoding, examples, raw_images, tf_errors
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.kernels.random_crop import EncodedImages
from hvd_imagenet.preprocessing import parse_example
from hvd_imagenet.sources import Source

# TensorFlow takes a part of a tensor without copying it where it is aligned so.
_ALIGNMENT = 64


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


class Buffers:
    """Memory that is used again once TensorFlow has let go of it.

    The first use of fresh memory takes several times as long as to copy an
    image into it.
    """

    def __init__(self):
        self._free: list[np.ndarray] = []
        self._length = 0

    def take(self, length: int) -> np.ndarray:
        """[length] uint8 or more, not set, at an aligned address."""
        # What was enough for one batch is likely to be so for others.
        self._length = max(self._length, length)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < length + _ALIGNMENT:
            memory = np.empty(self._length + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        # Not a plain slice: parts of that would keep `memory`, not the slice.
        array = np.frombuffer(
            memory.data, np.uint8, len(memory) - _ALIGNMENT, first
        )
        weakref.finalize(array, self._free.append, memory)
        return array


class _Image(NamedTuple):
    """An image that was read: a part of `data`.

    Attributes:
        data: bytes, or [bytes] uint8.
        start: first byte.
        length: number of bytes.
        shape: height and width of a raw image; 0 and 0 if it is none.
        label: from 0.
    """

    data: bytes | np.ndarray
    start: int
    length: int
    shape: tuple[int, int]
    label: int


class BatchReader:
    """Reads batches into arrays.

    Attributes:
        source: what is read of.
        num_classes: labels there may be.
        skip: whether to leave out what cannot be read.
        compiled: whether all images go into the buffer, for the compiled
            operation: JPEGs and raw images; others are decoded. If not, raw
            images go there.
    """

    def __init__(
        self, source: Source, num_classes: int, *, skip: bool, compiled: bool
    ):
        self.source = source
        self.num_classes = num_classes
        self.skip = skip
        self.compiled = compiled
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
        buffer = np.empty(0, np.uint8)
        end = 0
        for place, index in enumerate(indices):
            try:
                image = self._read(int(index))
            except CorruptRecordError:
                if not self.skip:
                    raise
                continue
            labels[place] = image.label
            shapes[place, :2] = image.shape
            data, first, length = image.data, image.start, image.length
            if not self.compiled and not image.shape[0]:
                encoded[place] = data[first : first + length]
                continue
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + length
            if end > len(buffer):
                # Enough where the others are as large.
                room = (count - place) * (length + _ALIGNMENT)
                larger = self._buffers.take(max(start + room, 2 * len(buffer)))
                larger[:start] = buffer[:start]
                buffer = larger
            buffer[start:end] = np.frombuffer(data, np.uint8, length, first)
            starts[place], lengths[place] = start, length
        images = EncodedImages(buffer, starts, lengths, shapes)
        return encoded, labels, images

    def _read(self, index: int) -> _Image:
        data, label = self.source.read(index)
        start, length = 0, len(data)
        features = self.source.features
        if features is not None:
            place = examples.find(data, features)
            if place is None:
                data, label = self._parse(index, data)
                length = len(data)
            else:
                start, length, label = place
                label -= features.label_offset
        self._check_label(index, label)
        shape = raw_images.find(data, start, length)
        if shape is not None:
            header = raw_images.HEADER_BYTES
            return _Image(data, start + header, length - header, shape, label)
        if self.compiled and not data.startswith(decoding.JPEG_MAGIC, start):
            pixels = self._decode(index, data[start : start + length])
            height, width, _ = pixels.shape
            return _Image(
                pixels.reshape(-1), 0, pixels.size, (height, width), label
            )
        return _Image(data, start, length, (0, 0), label)

    def _parse(self, index: int, record: bytes) -> tuple[bytes, int]:
        """Image and label of a record in which `examples.find` finds none."""
        try:
            encoded, label = parse_example(record, self.source.features)
        except tf_errors.ERRORS as error:
            raise self._unusable(index, error) from None
        return encoded.numpy(), int(label)

    def _decode(self, index: int, encoded: bytes) -> np.ndarray:
        try:
            return decoding.decode_other(tf.constant(encoded)).numpy()
        except tf_errors.ERRORS as error:
            raise self._unusable(index, error) from None

    def _unusable(self, index: int, error: Exception) -> CorruptRecordError:
        return CorruptRecordError(
            f"{self.source.where(index)} cannot be used:"
            f" {tf_errors.reason(error)}."
        )

    def _check_label(self, index: int, label: int) -> None:
        if 0 <= label < self.num_classes:
            return
        where, counted = self.source.where(index), ""
        if self.source.features is not None:
            offset = self.source.features.label_offset
            label += offset
            counted = f" counted from --label_offset={offset}"
        raise CorruptRecordError(
            f"{where} has the label {label}, outside the {self.num_classes}"
            f" classes of --num_classes{counted}."
        )


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
