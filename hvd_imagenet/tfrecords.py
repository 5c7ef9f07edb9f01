"""Random access to TFRecord files by an index of offsets."""

import bisect
import dataclasses
import errno
import json
import os
import resource
from collections.abc import Sequence
from concurrent import futures

import numpy as np

from hvd_imagenet import framing, mapped_arrays, retries
from hvd_imagenet.framing import CorruptRecordError

# A remote file system takes long to answer, and answers many at once.
_THREADS = 16
# Part of every stored index; raised when its meaning changes.
_INDEX_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordIndex:
    """Where every record of a list of files is.

    Attributes:
        firsts: [files + 1] int64, number of the first record of every file, and
            of all records.
        bounds: [records + files] int64, file after file: the byte at which
            every record begins, and that at which the last one ends.
    """

    firsts: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return int(self.firsts[-1])


class RecordReader:
    """Reads single records of indexed TFRecord files, from any thread."""

    def __init__(self, paths: Sequence[str], index: RecordIndex):
        """Opens the files and keeps them open.

        Args:
            paths: TFRecord files, as the index was made of.
            index: where their records are.

        Raises:
            ValueError: the process may not open that many files.
        """
        allow_open_files(len(paths))
        self._paths = list(paths)
        self._firsts = index.firsts.tolist()
        self._bounds = index.bounds
        self._retries = retries.Retries()
        self._descriptors: list[int] = []
        with futures.ThreadPoolExecutor(_THREADS) as pool:
            for descriptor in pool.map(_open, paths):
                self._descriptors.append(descriptor)

    def __len__(self) -> int:
        return self._firsts[-1]

    def read(self, record: int) -> bytes:
        """The data of a record, checked against its CRC.

        Raises:
            CorruptRecordError: the file is shorter than when it was indexed,
                cannot be read, or the CRC does not fit.
        """
        file, start, end = self._place(record)
        wanted = end - start - framing.HEADER_BYTES
        data = self._retries.read(
            lambda: os.pread(
                self._descriptors[file], wanted, start + framing.HEADER_BYTES
            ),
            self._paths[file],
            lambda: self.where(record),
            lambda: self._reopen(file),
        )
        if len(data) < wanted:
            raise CorruptRecordError(
                f"{self.where(record)} ends after {len(data)} of {wanted}"
                " bytes: the file was cut since it was indexed."
            )
        return framing.checked(data, lambda: self.where(record))

    def where(self, record: int) -> str:
        """Names a record: file, number in the file, offset."""
        file, start, _ = self._place(record)
        number = record - self._firsts[file]
        return f"{_name(number, self._paths[file])} (at byte {start})"

    def _reopen(self, file: int) -> None:
        descriptor = _open(self._paths[file])
        size = self._bounds[self._firsts[file + 1] + file]
        try:
            if os.fstat(descriptor).st_size == size:  # Else it is another one.
                # In one step: other threads may be reading by the old one.
                os.dup2(descriptor, self._descriptors[file], inheritable=False)
        finally:
            os.close(descriptor)

    def _place(self, record: int) -> tuple[int, int, int]:
        """Number of the file, and where in it the record begins and ends."""
        file = bisect.bisect_right(self._firsts, record) - 1
        # Every file before has one more bound than it has records.
        start, end = self._bounds[record + file : record + file + 2].tolist()
        return file, start, end

    def __del__(self):
        for descriptor in getattr(self, "_descriptors", ()):
            os.close(descriptor)


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
        arrays = mapped_arrays.load(cache_path, signature)
        if arrays is not None:
            return RecordIndex(**arrays)
    index = build_index(paths)
    for cache_path in cache_paths:
        if mapped_arrays.save(cache_path, signature, dataclasses.asdict(index)):
            break
    return index


def build_index(paths: Sequence[str]) -> RecordIndex:
    """Walks through the files from record to record.

    Raises:
        CorruptRecordError: a length does not match its CRC, or a file ends
            within a record.
    """
    # Every record costs a read of its header, without the interpreter lock.
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        bounds = list(pool.map(_scan, paths))
    return RecordIndex(
        firsts=np.cumsum([0, *(len(each) - 1 for each in bounds)]),
        bounds=np.concatenate(bounds),
    )


def _scan(path: str) -> np.ndarray:
    """The bounds of the records of one file."""
    bounds = [0]
    with open(path, "rb") as file:
        descriptor = file.fileno()
        end = os.fstat(descriptor).st_size
        position = 0
        while position < end:
            header = os.pread(descriptor, framing.HEADER_BYTES, position)
            where = f"{_name(len(bounds) - 1, path)} (at byte {position})"
            if len(header) < framing.HEADER_BYTES:
                raise CorruptRecordError(
                    f"{where} is cut: the file has only {end} bytes; copy or"
                    " make it again."
                )
            length = framing.data_length(header, where)
            next_position = position + length + framing.FRAME_BYTES
            if next_position > end:
                raise CorruptRecordError(
                    f"{where} is cut: it should end at byte {next_position},"
                    f" the file has only {end} bytes; copy or make it again."
                )
            bounds.append(next_position)
            position = next_position
    return np.array(bounds, np.int64)


def _name(number: int, path: str) -> str:
    return f"record {number} of {path}"


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY)


def _signature(paths: Sequence[str]) -> str:
    """What must be unchanged for an index to fit: names, sizes, times."""
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        facts = [
            [os.path.basename(path), status.st_size, status.st_mtime_ns]
            for path, status in zip(
                paths, pool.map(os.stat, paths), strict=True
            )
        ]
    return json.dumps([_INDEX_VERSION, facts])


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
