"""One image of a source, whatever its record is like."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvd_imagenet import decoding, examples, raw_images, tf_errors
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.preprocessing import parse_example
from hvd_imagenet.sources import Source


class EncodedImage(NamedTuple):
    """An image as it was read: a part of `data`.

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


class ImageReader:
    """Reads images, and finds image and label in their records."""

    def __init__(
        self, source: Source, num_classes: int, *, decodes_others: bool
    ):
        """Says what is wanted.

        Args:
            source: what to read of.
            num_classes: labels there may be.
            decodes_others: whether to decode what is neither JPEG nor raw image
                to a raw image.
        """
        self._source = source
        self._num_classes = num_classes
        self._decodes_others = decodes_others

    def read(self, index: int) -> EncodedImage:
        """The image with this number.

        Raises:
            CorruptRecordError: it cannot be read, has an unknown label, or is
                no image.
        """
        data, label = self._source.read(index)
        start, length = 0, len(data)
        features = self._source.features
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
            return EncodedImage(
                data, start + header, length - header, shape, label
            )
        if self._decodes_others and not data.startswith(
            decoding.JPEG_MAGIC, start
        ):
            pixels = self._decode(index, data[start : start + length])
            height, width, _ = pixels.shape
            return EncodedImage(
                pixels.reshape(-1), 0, pixels.size, (height, width), label
            )
        return EncodedImage(data, start, length, (0, 0), label)

    def _parse(self, index: int, record: bytes) -> tuple[bytes, int]:
        """Image and label of a record in which `examples.find` finds none."""
        try:
            encoded, label = parse_example(record, self._source.features)
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
            f"{self._source.where(index)} cannot be used:"
            f" {tf_errors.reason(error)}."
        )

    def _check_label(self, index: int, label: int) -> None:
        if 0 <= label < self._num_classes:
            return
        where, counted = self._source.where(index), ""
        if self._source.features is not None:
            offset = self._source.features.label_offset
            label += offset
            counted = f" counted from --label_offset={offset}"
        raise CorruptRecordError(
            f"{where} has the label {label}, outside the {self._num_classes}"
            f" classes of --num_classes{counted}."
        )
