"""One record of a source to one packed record."""

import io
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image

from hvd_imagenet import imagenet, raw_images
from hvd_imagenet.examples import ExampleFeatures
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.packing.options import PackOptions

# What packed records store for the first class, as the well-known builder
# scripts of ImageNet do.
LABEL_OFFSET = 1

_SPLIT_FOLDERS = {
    name for names in imagenet.SPLIT_NAMES.values() for name in names
}
# What image data sets of TensorFlow Datasets call the image's file.
_TFDS_NAME = "file_name"

# Pillow's modes that convert("RGB") does not damage: of 8 bits.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# A JPEG may be decoded at a half, quarter or eighth of its size, if that is
# still so much larger than what is wanted. Of a photograph of 2048 x 1536 to
# 341 x 256 this differs by 0.35 grey levels on average, 5 at most; JPEG of
# quality 90 by 3.
_DRAFT_FACTOR = 2
# What Pillow raises for damaged files, depending on where they are damaged.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    Image.DecompressionBombError,
)


class Packed(NamedTuple):
    """A packed record.

    Attributes:
        record: serialized tf.train.Example, as the builder scripts write it.
        label: class of the image, from 0.
        names: WordNet ID and words of the class, as far as known.
        is_copy: whether the image is the source's, to the byte.
    """

    record: bytes
    label: int
    names: tuple[str, str]
    is_copy: bool


def pack(
    record: bytes,
    label: int,
    where: str,
    features: ExampleFeatures | None,
    options: PackOptions,
) -> Packed:
    """Packs a record.

    Args:
        record: encoded image, or a serialized tf.train.Example that has one.
        label: class of the image, from 0, if it is not in the record.
        where: name of the record.
        features: where image and label are in a tf.train.Example; None if
            `record` is the encoded image.
        options: what becomes of it.

    Raises:
        CorruptRecordError: it cannot be understood.
    """
    if features is None:
        message, encoded = _describe(where), record
    else:
        message, encoded, label = _parse(record, where, features)
    features = message.features.feature
    if not 0 <= label < options.num_classes:
        raise CorruptRecordError(
            f"{where} has the label {label} counted from 0, outside the"
            f" {options.num_classes} classes of --num_classes."
        )
    image, is_copy = _shrink(encoded, where, options)
    _set(features, "image/colorspace", b"RGB")
    _set(features, "image/channels", 3)
    _set(features, "image/height", image.height)
    _set(features, "image/width", image.width)
    _set(features, "image/class/label", label + LABEL_OFFSET)
    names = (
        _text(features, "image/class/synset"),
        _text(features, "image/class/text"),
    )
    if options.encoding == "raw":
        encoded = raw_images.encode(np.asarray(image))
        is_copy = False
    elif not is_copy:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=options.quality)
        encoded = buffer.getvalue()
    file_format = {"raw": b"PPM", "jpeg": b"JPEG"}[options.encoding]
    _set(features, "image/format", file_format)
    _set(features, "image/encoded", encoded)
    packed = message.SerializeToString(deterministic=True)
    return Packed(packed, label, names, is_copy)


def _parse(
    record: bytes, where: str, names: ExampleFeatures
) -> tuple[tf.train.Example, bytes, int]:
    """The features that a packed record keeps, the image and its label."""
    try:
        message = tf.train.Example.FromString(record)
        features = message.features.feature
        (encoded,) = features[names.image].bytes_list.value
        (label,) = features[names.label].int64_list.value
    except (DecodeError, ValueError) as error:
        raise CorruptRecordError(
            f"{where} is no tf.train.Example with one {names.image} and one"
            f" {names.label}."
        ) from error
    del features[names.image], features[names.label]
    if _TFDS_NAME in features:
        features["image/filename"].CopyFrom(features[_TFDS_NAME])
        del features[_TFDS_NAME]
    return message, encoded, label - names.label_offset


def _describe(path: str) -> tf.train.Example:
    """What the path of an image says of it."""
    message = tf.train.Example()
    folder, name = os.path.split(path)
    _set(message.features.feature, "image/filename", name.encode())
    parent, synset = os.path.split(folder)
    # Not that of all validation images, which may lie in one folder.
    if os.path.basename(parent) in _SPLIT_FOLDERS:
        _set(message.features.feature, "image/class/synset", synset.encode())
    return message


def _shrink(
    encoded: bytes, where: str, options: PackOptions
) -> tuple[Image.Image, bool]:
    """The image in RGB, and whether it is as it was and a JPEG."""
    try:
        image = Image.open(io.BytesIO(encoded))
        if image.mode not in _MODES:
            raise ValueError(f"its mode {image.mode} is not of 8 bits")
        size = options.size(*image.size)
        if max(size) > raw_images.SIDE_MAX:
            raise ValueError(f"a side is over {raw_images.SIDE_MAX} pixels")
        is_copy = (
            options.encoding == "jpeg"
            and options.copy_small
            and (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
        )
        if size != image.size:
            image.draft("RGB", tuple(_DRAFT_FACTOR * side for side in size))
        # Decodes in any case: what is copied is known to be whole.
        image = image.convert("RGB")
        if image.size != size:
            # The sharpest of Pillow's filters that look at all pixels.
            image = image.resize(size, Image.Resampling.LANCZOS)
    except _PILLOW_ERRORS as error:
        raise CorruptRecordError(
            f"{where} cannot be decoded: {error}."
        ) from error
    return image, is_copy


def _set(features, name: str, value: bytes | int) -> None:
    if isinstance(value, bytes):
        kind = {"bytes_list": tf.train.BytesList(value=[value])}
    else:
        kind = {"int64_list": tf.train.Int64List(value=[value])}
    features[name].CopyFrom(tf.train.Feature(**kind))


def _text(features, name: str) -> str:
    if name not in features:
        return ""
    values = features[name].bytes_list.value
    return values[0].decode(errors="replace") if values else ""
