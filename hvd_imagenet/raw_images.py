"""Images that nobody has to decode, and where they are in a record.

A raw image is a binary portable pixmap (Netpbm's PPM, magic number P6) with a
header of fixed length, so that it says itself what it is and Pillow opens it.
"""

import re
from typing import NamedTuple

import numpy as np

# Width and height take five places, filled with spaces, as Netpbm allows.
MAGIC = b"P6\n"
HEADER_BYTES = 19
SIDE_MAX = 99_999

# A serialized tf.train.Example of an empty image alone.
NO_IMAGE = b"\x0a\x17\x0a\x15\x0a\x0dimage/encoded\x12\x04\x0a\x02\x0a\x00"

# A tf.train.Example's map entry up to the image: the key, then the lengths of
# feature, list and bytes as varints of protobuf.
_KEY = b"\x0a\x0dimage/encoded\x12"
_LENGTH = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
_RAW_ENTRY = re.compile(
    re.escape(_KEY)
    + rb"%b\x0a%b\x0a(%b)P6\n( *\d+) ( *\d+)\n255\n"
    % (_LENGTH, _LENGTH, _LENGTH),
    re.DOTALL,
)


# Of a record in which an image was found.
_FIRST_FIELD = re.compile(rb"\x0a(%b)" % _LENGTH)


class RawImage(NamedTuple):
    """A raw image in a record.

    Attributes:
        start: first byte of the pixels, which are height x width x 3 uint8.
        height: in pixels.
        width: in pixels.
        features_bytes: length of the record's beginning that holds all other
            features as a tf.train.Example of its own; None if there is none.
    """

    start: int
    height: int
    width: int
    features_bytes: int | None


def encode(pixels: np.ndarray) -> bytes:
    """The PPM of [height, width, 3] uint8, RGB; sides up to SIDE_MAX."""
    height, width, _ = pixels.shape
    return b"P6\n%5d %5d\n255\n" % (width, height) + pixels.tobytes()


def with_features(image: bytes, features: bytes) -> bytes:
    """A serialized tf.train.Example that `find` takes apart at no cost.

    Args:
        image: as `encode` gives it.
        features: serialized tf.train.Example of all other features.
    """
    # Serialized messages put together are their union, so the image can come
    # last and the rest be read without it.
    bytes_list = _field(image)
    entry = _KEY + _to_varint(len(_field(bytes_list))) + _field(bytes_list)
    return features + _field(_field(entry))


def find(record: bytes) -> RawImage | None:
    """Where the raw image of a serialized tf.train.Example is, if it has one.

    Found without parsing, which copies the image and takes longer than to crop
    and resize it.
    """
    key = record.find(_KEY)
    entry = _RAW_ENTRY.match(record, key) if key >= 0 else None
    if entry is None:
        return None
    length, width, height = entry.groups()
    width, height = int(width), int(height)
    image_bytes = HEADER_BYTES + height * width * 3
    start = entry.end()
    if _varint(
        length
    ) != image_bytes or start - HEADER_BYTES + image_bytes > len(record):
        return None
    first_length = _FIRST_FIELD.match(record)
    first_bytes = first_length.end() + _varint(first_length[1])
    return RawImage(
        start=start,
        height=height,
        width=width,
        features_bytes=first_bytes if first_bytes <= key else None,
    )


def _field(value: bytes) -> bytes:
    """Field 1 of a protobuf message, of bytes or a message."""
    return b"\x0a" + _to_varint(len(value)) + value


def _to_varint(number: int) -> bytes:
    """A varint of protobuf: seven bits a byte, the least first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _varint(encoded: bytes) -> int:
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded))
