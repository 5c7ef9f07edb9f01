"""One checkpoint as one .npz file, which NumPy alone can read.

It has every array by its name, and a JSON text of facts. The zip format's
CRC-32 of every member tells damaged arrays; among the facts they stand once
more, with the names, so that none is lost or exchanged.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

_FACTS = "facts"
_CRCS = "crc32"


class DamagedError(ValueError):
    """A file is no whole checkpoint; the message says which and why."""


def write(
    file: BinaryIO,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> None:
    """Writes as `numpy.savez` does.

    Args:
        file: opened, seekable.
        arrays: by name; none is named "facts".
        facts: plain for JSON, without "crc32".

    Raises:
        OSError: it cannot be written.
    """
    # numpy.savez itself leaves its archive open after an error, which then
    # complains on stderr when it is collected.
    with zipfile.ZipFile(file, "w") as archive:
        crcs = {
            name: _add(archive, name, array) for name, array in arrays.items()
        }
        _add(archive, _FACTS, np.array(json.dumps({**facts, _CRCS: crcs})))


def read(
    path: str | BinaryIO,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts, equal to what was written.

    Args:
        path: of a file, or an opened one.

    Raises:
        DamagedError: they would not be, or the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            crcs = {i.filename: i.CRC for i in archive.infolist()}
            # To its end, where zipfile compares the CRC, before any of it is
            # understood.
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in crcs
            }
        facts = json.loads(str(arrays.pop(_FACTS)))
        del crcs[f"{_FACTS}.npy"]
        if {f"{k}.npy": v for k, v in facts.pop(_CRCS).items()} != crcs:
            raise ValueError("arrays are missing, or of another file")
    except MemoryError:
        raise  # Not the file's fault.
    except Exception as error:
        # All of them, as zipfile and NumPy answer damage with a dozen kinds.
        reason = str(error) or type(error).__name__
        raise DamagedError(
            f"{path} is damaged or cannot be read ({reason})"
        ) from error
    return arrays, facts


def _add(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> int:
    """Adds a member; returns its CRC-32."""
    # Its size is not known in advance: room for one of more than 2 GiB.
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)
    return archive.getinfo(f"{name}.npy").CRC
