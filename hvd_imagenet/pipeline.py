"""Encoded images to batches, by tf.data: in order, and naming what is corrupt.

Batches come in a fixed order however many threads there are.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvd_imagenet import mixing, reading, tf_errors
from hvd_imagenet.config import Config
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.preprocessing import parse_example
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
        draw: how a batch is to be mixed, by its number; None if it is not.
    """

    source: Source
    order: reading.Order
    prepare_image: Callable[[tf.Tensor, tf.Tensor, tf.Tensor | None], tf.Tensor]
    image_size: int
    config: Config
    draw: Callable[[int], np.ndarray] | None = None

    def prepare(
        self,
        record: tf.Tensor,
        label: tf.Tensor,
        index: tf.Tensor,
        seed: tf.Tensor,
        pixels: tf.Tensor | None = None,
    ) -> Batch:
        """One record to one image; raises inside the graph what is wrong."""
        encoded, label = self._parse(record, label)
        image = self.prepare_image(encoded, seed, pixels)
        return Batch(image, label, tf.ones([]), index)

    def _parse(
        self, records: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encoded images and labels of a record or of several, checked."""
        if self.source.features is not None:
            records, labels = parse_example(records, self.source.features)
        known = (0 <= labels) & (labels < self.config.model.num_classes)
        are_known = tf.debugging.Assert(tf.reduce_all(known), [labels])
        with tf.control_dependencies([are_known]):
            return tf.identity(records), labels

    def dataset(
        self, numbers: range, batch_size: int, threads: int
    ) -> tf.data.Dataset:
        """The batches of this rank with these consecutive numbers."""
        skip = self.config.data.on_corrupt == "skip"

        if skip:
            dataset = reading.rows(self.source, self.order, numbers, skip=True)
            dataset = dataset.interleave(
                self._prepare_or_blank,
                cycle_length=2 * threads,
                block_length=1,
                num_parallel_calls=threads,
                deterministic=True,
            )
        else:
            dataset = reading.rows(
                self.source,
                self.order,
                numbers,
                skip=False,
                prepare_batch=self._parse_batch,
            )
            dataset = dataset.map(
                self._prepare_parsed,
                num_parallel_calls=threads,
                deterministic=True,
            )
        dataset = dataset.batch(batch_size)
        # Not by `self`, which TensorFlow would keep; see `reading.rows`.
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

    def _parse_batch(self, batch: reading.Row) -> reading.Row:
        # At once for a batch: a record alone costs several times as much.
        encoded, labels = self._parse(batch.record, batch.label)
        return batch._replace(record=encoded, label=labels)

    def _prepare_parsed(self, by_row, buffer) -> Batch:
        row = reading.Row(*by_row, buffer)
        image = self.prepare_image(row.record, row.seed, row.pixels())
        return Batch(image, row.label, tf.ones([]), row.index)

    def _prepare_row(self, by_row, buffer) -> Batch:
        row = reading.Row(*by_row, buffer)
        return self.prepare(
            row.record, row.label, row.index, row.seed, row.pixels()
        )

    def _prepare_or_blank(self, by_row, buffer) -> tf.data.Dataset:
        """A data set of one image: a black one where `prepare` fails."""
        shape = [self.image_size, self.image_size, 3]
        index = reading.Row(*by_row, buffer).index
        blank = Batch(
            tf.zeros(shape, tf.uint8), tf.constant(0), tf.zeros([]), index
        )
        prepared = tf.data.Dataset.from_tensors((by_row, buffer))
        prepared = prepared.map(self._prepare_row).ignore_errors()
        return prepared.concatenate(tf.data.Dataset.from_tensors(blank)).take(1)

    def find_corrupt(self, number: int) -> CorruptRecordError | None:
        """Looks for what broke batch `number`, record by record."""
        indices, seeds = self.order(number)
        for index, seed in zip(indices, seeds, strict=True):
            fault = self._fault(int(index), seed)
            if fault is not None:
                return CorruptRecordError(
                    f"{fault} Repair it, or leave such records out with"
                    " --on_corrupt=skip."
                )
        return None

    def _fault(self, index: int, seed: np.ndarray) -> str | None:
        """What is wrong with a record, as a sentence."""
        where = self.source.where(index)
        try:
            record, label = self.source.read(index)
        except CorruptRecordError as error:
            return str(error)
        try:
            features = self.source.features
            if features is not None:
                offset = features.label_offset
                label = int(parse_example(record, features)[1])
                classes = self.config.model.num_classes
                if not 0 <= label < classes:
                    return (
                        f"{where} has the label {label + offset}, outside the"
                        f" {classes} classes of --num_classes counted from"
                        f" --label_offset={offset}."
                    )
            self.prepare(
                tf.constant(record),
                tf.constant(label, tf.int32),
                tf.constant(index, tf.int64),
                tf.constant(seed, tf.int64),
            )
        except tf_errors.ERRORS as error:
            return f"{where} cannot be used: {tf_errors.reason(error)}."
        return None
