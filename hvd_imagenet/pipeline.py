"""Encoded images to batches, by tf.data: in order, and naming what is corrupt.

Batches come in a fixed order however many threads there are.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvd_imagenet import mixing, reading, tf_errors
from hvd_imagenet.config import Config
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.preprocessing import PrepareBatch
from hvd_imagenet.sources import Source


class Batch(NamedTuple):
    """A micro-batch as it reaches the device.

    Attributes:
        images: [batch, image_size, image_size, 3] uint8, RGB.
        labels: [batch] int32, from 0.
        weights: [batch] float32: 1; 0 for padding and for skipped records.
        indices: [batch] int64, number of the image in its split; -1 for
            padding.
        mixing: how the images are to be mixed, [5] float32 of `mixing.draw`;
            None if they are not.
    """

    images: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor
    indices: tf.Tensor
    mixing: tf.Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Reads, decodes and batches the images that `order` names.

    Attributes:
        source: encoded images.
        order: images and seeds of a batch by its number.
        prepare_image: (encoded image, seed, pixels of a raw image or None) to
            a uint8 image.
        image_size: side of the image in pixels.
        config: classes and what to do about corrupt records.
        prepare_batch: the same for a batch at once; None if there is nothing
            that does it.
        draw: how a batch is to be mixed, by its number; None if it is not.
    """

    source: Source
    order: reading.Order
    prepare_image: Callable[[tf.Tensor, tf.Tensor, tf.Tensor | None], tf.Tensor]
    image_size: int
    config: Config
    prepare_batch: PrepareBatch | None = None
    draw: Callable[[int], np.ndarray] | None = None

    def dataset(
        self, numbers: range, batch_size: int, threads: int
    ) -> tf.data.Dataset:
        """The batches of this rank with these consecutive numbers."""
        skip = self.config.data.on_corrupt == "skip"
        reader = self.reader(skip=skip)
        if self.prepare_batch is not None:
            dataset = reading.batches(reader, self.order, numbers)
            dataset = dataset.map(
                functools.partial(self._prepare_batch, threads, skip),
                # While one ends, threads have the next one to work on.
                num_parallel_calls=2,
                deterministic=True,
            )
        else:
            dataset = reading.rows(reader, self.order, numbers)
            if skip:
                dataset = dataset.interleave(
                    self._prepare_or_blank,
                    cycle_length=2 * threads,
                    block_length=1,
                    num_parallel_calls=threads,
                    deterministic=True,
                )
            else:
                dataset = dataset.map(
                    self._prepare_row,
                    num_parallel_calls=threads,
                    deterministic=True,
                )
            dataset = dataset.batch(batch_size)
        # Not by `self`, which TensorFlow would keep; see `reading.batches`.
        draw = self.draw
        if draw is None:
            return dataset

        def with_draw(batch, number):
            drawn = tf.numpy_function(
                lambda number: draw(int(number)), [number], tf.float32
            )
            drawn = tf.ensure_shape(drawn, [mixing.DRAW_SIZE])
            return batch._replace(mixing=drawn)

        numbered = tf.data.Dataset.range(numbers.start, numbers.stop)
        return tf.data.Dataset.zip(dataset, numbered).map(with_draw)

    def reader(self, *, skip: bool) -> reading.BatchReader:
        """Reads images as this pipeline wants them."""
        return reading.BatchReader(
            self.source,
            self.config.model.num_classes,
            skip=skip,
            compiled=self.prepare_batch is not None,
        )

    def _prepare_batch(
        self, threads: int, skip: bool, rows: reading.Row
    ) -> Batch:
        crops = self.prepare_batch(rows.images(), rows.seed, threads, skip)
        is_image = crops.errors == ""
        return Batch(
            crops.images,
            tf.where(is_image, rows.label, 0),
            tf.cast(is_image, tf.float32),
            rows.index,
        )

    def _prepare_row(self, by_row, buffer) -> Batch:
        row = reading.Row(*by_row, buffer)
        image = self.prepare_image(row.encoded, row.seed, row.pixels())
        return Batch(image, row.label, tf.ones([]), row.index)

    def _prepare_or_blank(self, by_row, buffer) -> tf.data.Dataset:
        """A data set of one image: a black one where there is none."""
        shape = [self.image_size, self.image_size, 3]
        index = reading.Row(*by_row, buffer).index
        blank = Batch(
            tf.zeros(shape, tf.uint8), tf.constant(0), tf.zeros([]), index
        )
        prepared = tf.data.Dataset.from_tensors((by_row, buffer))
        prepared = prepared.map(self._prepare_row).ignore_errors()
        return prepared.concatenate(tf.data.Dataset.from_tensors(blank)).take(1)

    def find_corrupt(self, number: int) -> CorruptRecordError | None:
        """Looks for what broke batch `number`, image by image."""
        reader = self.reader(skip=False)
        indices, seeds = self.order(number)
        for index, seed in zip(indices, seeds, strict=True):
            fault = self._fault(reader, int(index), seed)
            if fault is not None:
                return CorruptRecordError(
                    f"{fault} Repair it, or leave such records out with"
                    " --on_corrupt=skip."
                )
        return None

    def _fault(
        self, reader: reading.BatchReader, index: int, seed: np.ndarray
    ) -> str | None:
        """What is wrong with an image, as a sentence."""
        try:
            encoded, labels, images = reader.read([index])
        except CorruptRecordError as error:
            return str(error)
        buffer, *by_row = images
        batch = encoded, labels, *by_row, [index], seed[np.newaxis], buffer
        rows = reading.Row(*map(tf.constant, batch))
        try:
            if self.prepare_batch is not None:
                self._prepare_batch(1, False, rows)
            else:
                *by_row, buffer = rows
                self._prepare_row([part[0] for part in by_row], buffer)
        except tf_errors.ERRORS as error:
            where = self.source.where(index)
            return f"{where} cannot be used: {tf_errors.reason(error)}."
        return None
