"""Arrays in a file that fits something else, and that processes share.

The file is NumPy's .npz. What is loaded is mapped, so that all processes of a
host that load it have one copy in memory, the one of the page cache.
"""

import os
import struct
import tempfile
import zipfile
from collections.abc import Mapping

import numpy as np

# What reading a damaged .npz file raises, depending on where it is damaged.
NPZ_ERRORS = (
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)

_SIGNATURE = "signature"
# Of a member's own header: its length, and where the lengths of the name and of
# what follows that stand (PKWARE's APPNOTE.TXT, section 4.3.7).
_MEMBER_HEADER_BYTES = 30
_MEMBER_LENGTHS = struct.Struct("<26xHH")
_CHECK_BYTES = 1 << 20


def load(path: str, signature: str) -> dict[str, np.ndarray] | None:
    """The arrays of a file, read-only; None unless it is whole and fits.

    Args:
        path: of a file that `save` has written.
        signature: what it was saved with.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            arrays = {}
            for info in archive.infolist():
                _check(archive, info)
                name = info.filename.removesuffix(".npy")
                arrays[name] = _map(file, info)
    except NPZ_ERRORS:
        return None  # A cache: absent and unreadable are the same.
    if str(arrays.pop(_SIGNATURE, "")) != signature:
        return None
    return arrays


def save(path: str, signature: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the arrays could be written: the whole file, or nothing."""
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=name, dir=folder)
    except OSError:
        return False
    try:
        with open(descriptor, "wb") as file:
            np.savez(file, **{_SIGNATURE: signature}, **arrays)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        return False
    return True


def _check(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Reads a member to its end, where its CRC-32 is compared."""
    with archive.open(info) as member:
        while member.read(_CHECK_BYTES):
            pass


def _map(file, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("compressed")
    file.seek(info.header_offset)
    lengths = _MEMBER_LENGTHS.unpack(file.read(_MEMBER_HEADER_BYTES))
    file.seek(sum(lengths), os.SEEK_CUR)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of NumPy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.memmap(file, dtype, "r", offset=file.tell(), shape=shape)
