"""How fast the data can be read here, and whether a run can be written."""

import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Iterator

# Enough to see a slow disk, little enough for a busy file server.
_READ_BYTES = 256 * 2**20
_SECONDS = 2.0
_BLOCK_BYTES = 2**20
# An image folder has a million files; the first ones tell as much.
_FILES = 2_000

_WRITE_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read.

    Attributes:
        files: number of files opened.
        bytes: bytes read.
        seconds: time it took.
        error: what failed, with the file's name; "" if nothing did.
    """

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """Where a run would be written.

    Attributes:
        folder: the directory of the run, or the nearest above it that exists.
        free: bytes that this user may still write.
        rate: bytes per second, written to the disk itself.
        error: why it cannot be written; "" if it can.
    """

    folder: str
    free: int = 0
    rate: float = 0.0
    error: str = ""


def read(data_dir: str, share: float) -> Reading:
    """Reads for about two seconds, from the disk as far as the system lets.

    Args:
        data_dir: where files are looked for.
        share: which of them to begin with, 0 to 1, so that hosts that share a
            file server do not all read the same file.
    """
    paths = list(itertools.islice(_files(data_dir), _FILES))
    first = int(share * len(paths))
    files = done = 0
    begun = time.perf_counter()
    for path in [*paths[first:], *paths[:first]]:
        try:
            with open(path, "rb", buffering=0) as file:
                # What is in memory already says nothing of the disk.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                files += 1
                while block := file.read(_BLOCK_BYTES):
                    done += len(block)
                    seconds = time.perf_counter() - begun
                    if seconds > _SECONDS or done > _READ_BYTES:
                        return Reading(files=files, bytes=done, seconds=seconds)
        except OSError as error:
            return Reading(error=f"{path} cannot be read ({error.strerror})")
    return Reading(files=files, bytes=done, seconds=time.perf_counter() - begun)


def look_for_room(workdir: str) -> Room:
    """Writes a file where the run would be, and removes it."""
    folder = os.path.abspath(workdir)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    try:
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        count = min(_WRITE_BYTES, free // 2) or 1
        begun = time.perf_counter()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(count))
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - begun
    except OSError as error:
        return Room(folder=folder, error=error.strerror or str(error))
    return Room(folder=folder, free=free, rate=count / seconds)


def _files(folder: str) -> Iterator[str]:
    """Files below a folder, in order; hidden ones are not the data."""
    for inside, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(inside, name)
