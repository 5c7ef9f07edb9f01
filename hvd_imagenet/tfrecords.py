"""Random access to TFRecord files by an index of offsets.

A TFRecord file is a chain of records: length (uint64), CRC-32C of the length
(uint32), data, CRC-32C of the data (uint32), all little-endian; the CRCs are
masked (tensorflow/core/lib/io/record_writer.h).
"""

import dataclasses
import errno
import json
import os
import resource
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent import futures

import google_crc32c
import numpy as np

# What np.load raises for a damaged .npz file, depending on where it is damaged.
NPZ_ERRORS = (
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_SCAN_THREADS = 16
# Part of every stored index; raised when its meaning changes.
_INDEX_VERSION = 1


class CorruptRecordError(ValueError):
    """A record that cannot be read; says which, and why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordIndex:
    """Where every record of a list of files is.

    Attributes:
        files: [records] int32, number of the file.
        offsets: [records] int64, first byte of the data in its file.
        lengths: [records] int64, bytes of data.
    """

    files: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.files)


class RecordReader:
    """Reads single records of indexed TFRecord files, from any thread."""

    def __init__(self, paths: Sequence[str], index: RecordIndex):
        """Opens the files and keeps them open.

        Args:
            paths: TFRecord files, in the order of `index.files`.
            index: where their records are.

        Raises:
            ValueError: the process may not open that many files.
        """
        allow_open_files(len(paths))
        self._paths = list(paths)
        self._index = index
        self._descriptors = []
        for path in paths:
            self._descriptors.append(os.open(path, os.O_RDONLY))

    def __len__(self) -> int:
        return len(self._index)

    def read(self, record: int) -> bytes:
        """The data of a record, checked against its CRC.

        Raises:
            CorruptRecordError: the file is shorter than when it was indexed,
                cannot be read, or the CRC does not fit.
        """
        length = int(self._index.lengths[record])
        wanted = length + _FOOTER.size
        try:
            data = os.pread(
                self._descriptors[self._index.files[record]],
                wanted,
                int(self._index.offsets[record]),
            )
        except OSError as error:
            raise CorruptRecordError(
                f"{self.where(record)} cannot be read: {error.strerror}."
            ) from error
        if len(data) < wanted:
            raise CorruptRecordError(
                f"{self.where(record)} ends after {len(data)} of {wanted}"
                " bytes: the file was cut since it was indexed."
            )
        (stored,) = _FOOTER.unpack_from(data, length)
        data = data[:length]
        if _masked(google_crc32c.value(data)) != stored:
            raise CorruptRecordError(
                f"{self.where(record)} does not match its CRC-32C: its bytes"
                " were damaged."
            )
        return data

    def where(self, record: int) -> str:
        """Names a record: file, number in the file, offset."""
        file = int(self._index.files[record])
        first = int(np.searchsorted(self._index.files, file))
        start = int(self._index.offsets[record]) - _HEADER.size
        return f"{_name(record - first, self._paths[file])} (at byte {start})"

    def __del__(self):
        for descriptor in getattr(self, "_descriptors", ()):
            os.close(descriptor)


def framed(data: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands in a file for a record, in parts to write one by one."""
    length = struct.pack("<Q", len(data))
    header = length + _FOOTER.pack(_masked(google_crc32c.value(length)))
    return header, data, _FOOTER.pack(_masked(google_crc32c.value(data)))


def load_or_build_index(
    paths: Sequence[str], cache_paths: Sequence[str]
) -> RecordIndex:
    """The index of TFRecord files, cached where that is possible.

    Args:
        paths: TFRecord files.
        cache_paths: files to read the index from and write it to, the first
            preferred. An index whose files have changed since in name, size
            or modification time is built anew.

    Raises:
        CorruptRecordError: a file is no TFRecord file or is cut.
    """
    signature = _signature(paths)
    for cache_path in cache_paths:
        index = _load(cache_path, signature)
        if index is not None:
            return index
    index = build_index(paths)
    for cache_path in cache_paths:
        if _save(cache_path, signature, index):
            break
    return index


def build_index(paths: Sequence[str]) -> RecordIndex:
    """Walks through the files from record to record.

    Raises:
        CorruptRecordError: a length does not match its CRC, or a file ends
            within a record.
    """
    # Every record costs a read of its header, which takes long on a remote file
    # system and waits without the interpreter lock.
    with futures.ThreadPoolExecutor(_SCAN_THREADS) as pool:
        scanned = list(pool.map(_scan, paths))
    return RecordIndex(
        files=np.repeat(
            np.arange(len(paths), dtype=np.int32),
            [len(offsets) for offsets, _ in scanned],
        ),
        offsets=np.concatenate([offsets for offsets, _ in scanned]),
        lengths=np.concatenate([lengths for _, lengths in scanned]),
    )


def _scan(path: str) -> tuple[np.ndarray, np.ndarray]:
    offsets, lengths = [], []
    with open(path, "rb") as file:
        descriptor = file.fileno()
        end = os.fstat(descriptor).st_size
        position = 0
        while position < end:
            header = os.pread(descriptor, _HEADER.size, position)
            where = f"{_name(len(offsets), path)} (at byte {position})"
            if len(header) < _HEADER.size:
                raise CorruptRecordError(
                    f"{where} is cut: the file has only {end} bytes; copy or"
                    " make it again."
                )
            length, stored = _HEADER.unpack(header)
            if _masked(google_crc32c.value(header[:8])) != stored:
                raise CorruptRecordError(
                    f"{where} has a length that does not match its CRC-32C:"
                    " this is no TFRecord file, a compressed one, or it was"
                    " damaged; copy or make it again."
                )
            next_position = position + _HEADER.size + length + _FOOTER.size
            if next_position > end:
                raise CorruptRecordError(
                    f"{where} is cut: it should end at byte {next_position},"
                    f" the file has only {end} bytes; copy or make it again."
                )
            offsets.append(position + _HEADER.size)
            lengths.append(length)
            position = next_position
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _name(number: int, path: str) -> str:
    return f"record {number} of {path}"


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _signature(paths: Sequence[str]) -> str:
    """What must be unchanged for an index to fit: names, sizes, times."""
    facts = []
    for path in paths:
        status = os.stat(path)
        facts.append(
            [os.path.basename(path), status.st_size, status.st_mtime_ns]
        )
    return json.dumps([_INDEX_VERSION, facts])


def _load(cache_path: str, signature: str) -> RecordIndex | None:
    try:
        with np.load(cache_path, allow_pickle=False) as stored:
            if str(stored["signature"]) != signature:
                return None
            return RecordIndex(
                **{
                    field.name: stored[field.name]
                    for field in dataclasses.fields(RecordIndex)
                }
            )
    except NPZ_ERRORS:
        return None  # A cache: absent and unreadable are the same.


def _save(cache_path: str, signature: str, index: RecordIndex) -> bool:
    """Whether the index could be written."""
    folder, name = os.path.split(cache_path)
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=name, dir=folder)
    except OSError:
        return False
    try:
        with open(descriptor, "wb") as file:
            np.savez(file, signature=signature, **dataclasses.asdict(index))
        os.chmod(temporary, 0o644)
        os.replace(temporary, cache_path)
    except OSError:
        os.unlink(temporary)
        return False
    return True


def allow_open_files(count: int) -> None:
    """Raises the soft limit on open files when `count` more need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What TensorFlow, Horovod and TensorBoard files need beside ours.
    wanted = count + len(os.listdir("/proc/self/fd")) + 512
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(
            f"{count} data files need {wanted} open files, and the limit of"
            f" this process is {hard} ({errno.errorcode[errno.EMFILE]});"
            " raise it (ulimit -Hn) or pack the data into fewer files."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
