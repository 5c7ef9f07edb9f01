"""How TFRecord files frame their records.

A TFRecord file is a chain of records: length (uint64), CRC-32C of the length
(uint32), data, CRC-32C of the data (uint32), all little-endian; the CRCs are
masked (tensorflow/core/lib/io/record_writer.h).
"""

import struct
from collections.abc import Callable

import google_crc32c

_LENGTH = struct.Struct("<Q")
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")

# Before the data, behind it, and both.
HEADER_BYTES = _HEADER.size
FOOTER_BYTES = _CRC.size
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES


class CorruptRecordError(ValueError):
    """A record that cannot be read; says which, and why."""


def framed(data: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands in a file for a record, in parts to write one by one."""
    length = _LENGTH.pack(len(data))
    header = length + _CRC.pack(_masked(google_crc32c.value(length)))
    return header, data, _CRC.pack(_masked(google_crc32c.value(data)))


def data_length(header: bytes, where: str) -> int:
    """Bytes of data behind a header of `HEADER_BYTES`, which `where` names.

    Raises:
        CorruptRecordError: the length does not match its CRC.
    """
    length, stored = _HEADER.unpack(header)
    if _masked(google_crc32c.value(header[: _LENGTH.size])) != stored:
        raise CorruptRecordError(
            f"{where} has a length that does not match its CRC-32C: this is no"
            " TFRecord file, a compressed one, or it was damaged; copy or make"
            " it again."
        )
    return length


def checked(data_and_footer: bytes, where: Callable[[], str]) -> bytes:
    """The data of a record, without its footer.

    Args:
        data_and_footer: what follows the header.
        where: names the record, if that is needed.

    Raises:
        CorruptRecordError: it does not match its CRC.
    """
    length = len(data_and_footer) - FOOTER_BYTES
    (stored,) = _CRC.unpack_from(data_and_footer, length)
    data = data_and_footer[:length]
    if _masked(google_crc32c.value(data)) != stored:
        raise CorruptRecordError(
            f"{where()} does not match its CRC-32C: its bytes were damaged."
        )
    return data


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
