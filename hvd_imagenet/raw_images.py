"""Images that nobody has to decode.

A raw image is a binary portable pixmap (Netpbm's PPM, magic number P6) with a
header of fixed length, so that it says itself what it is and Pillow opens it.
"""

import re

import numpy as np

# Width and height take five places, filled with spaces, as Netpbm allows.
MAGIC = b"P6\n"
HEADER_BYTES = 19
SIDE_MAX = 99_999

_HEADER = re.compile(rb"P6\n( *\d+) ( *\d+)\n255\n")


def encode(pixels: np.ndarray) -> bytes:
    """The PPM of [height, width, 3] uint8, RGB; sides up to SIDE_MAX."""
    height, width, _ = pixels.shape
    return b"P6\n%5d %5d\n255\n" % (width, height) + pixels.tobytes()


def find(data: bytes, start: int, length: int) -> tuple[int, int] | None:
    """(height, width) of the raw image that is there in `data`, if it is one.

    Its pixels come after HEADER_BYTES: height x width x 3 uint8.
    """
    header = _HEADER.match(data, start, start + HEADER_BYTES)
    if header is None or header.end() != start + HEADER_BYTES:
        return None
    width, height = map(int, header.groups())
    pixels = length - HEADER_BYTES
    return (height, width) if 0 < pixels == height * width * 3 else None
