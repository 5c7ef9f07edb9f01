"""How the records of a data set hold image and label."""

import dataclasses
import functools
from typing import NamedTuple

# Tags of protobuf: all are fields with a length. An Example is a message of
# Features, that is a map of names to Feature messages; those hold a list of
# values (tensorflow/core/example/example.proto and feature.proto).
_MESSAGE = 0x0A  # Field 1: Features, an entry of the map, values of a list.
_VALUE = 0x12  # Field 2, of an entry.
_BYTES = 0x0A  # Field 1 of a Feature.
_INT64 = 0x1A  # Field 3 of a Feature.
_SIGNED = 1 << 63


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleFeatures:
    """Features of a tf.train.Example that holds an image.

    Attributes:
        image: name of the encoded image, one byte string.
        label: name of the class number, one integer.
        label_offset: number that is stored for the first class; None while it
            is not known (`label_offset.py`).
    """

    image: str
    label: str
    label_offset: int | None


class Place(NamedTuple):
    """Where a record has its image, and what its label is.

    Attributes:
        start: first byte of the encoded image.
        length: bytes of it.
        label: class number as it is stored.
    """

    start: int
    length: int
    label: int


def imagenet(label_offset: int | None) -> ExampleFeatures:
    """As the well-known builder scripts of ImageNet write them."""
    return ExampleFeatures(
        image="image/encoded",
        label="image/class/label",
        label_offset=label_offset,
    )


def find(record: bytes, features: ExampleFeatures) -> Place | None:
    """Image and label of a serialized tf.train.Example, without parsing it.

    To parse it is to copy the image. Finds what writers of such records write:
    a feature's name before its value, and of that a single one.

    Returns:
        None if they are not found: the record may be one all the same.
    """
    names = _key(features.image), _key(features.label)
    try:
        return _find(record, *names)
    except IndexError:  # Another field, or the end within one.
        return None


def _find(record: bytes, image_key: bytes, label_key: bytes) -> Place | None:
    start, length, label = -1, 0, None
    position = 0
    # Messages one behind the other are their union.
    while position < len(record):
        size, position = _field(record, position, _MESSAGE)
        end = position + size
        while position < end:
            size, position = _field(record, position, _MESSAGE)
            if record.startswith(image_key, position):
                value = position + len(image_key)
                length, start = _single(record, value, position + size, _BYTES)
                if start + length != position + size:
                    return None
            elif record.startswith(label_key, position):
                value = position + len(label_key)
                _, value = _single(record, value, position + size, _INT64)
                number, value = _varint(record, value)
                if value != position + size:
                    return None
                label = number - 2 * _SIGNED if number >= _SIGNED else number
            position += size
            if start >= 0 and label is not None:
                return Place(start, length, label)
        if position != end:
            return None
    return None


def _single(
    record: bytes, position: int, end: int, kind: int
) -> tuple[int, int]:
    """(length, first byte) of the one value of a feature up to `end`."""
    for tag in (_VALUE, kind, _MESSAGE):
        size, position = _field(record, position, tag)
        if position + size != end:
            raise IndexError
    return size, position


def _field(record: bytes, position: int, tag: int) -> tuple[int, int]:
    """(length, first byte) of a field that has to be that one."""
    if record[position] != tag:
        raise IndexError
    size, position = _varint(record, position + 1)
    if position + size > len(record):
        raise IndexError
    return size, position


def _varint(record: bytes, position: int) -> tuple[int, int]:
    """(number, what comes after it)."""
    byte = record[position]
    if byte < 0x80:
        return byte, position + 1
    number, shift = byte & 0x7F, 7
    while byte >= 0x80:
        position += 1
        byte = record[position]
        number |= (byte & 0x7F) << shift
        shift += 7
    return number, position + 1


@functools.cache
def _key(name: str) -> bytes:
    encoded = name.encode()
    # Of a byte, as names are short: one of 128 and more is not found.
    return b"\x0a%c%b" % (len(encoded) & 0xFF, encoded)
