"""TFRecord files read from their beginning to their end, remote ones too.

Through tf.io.gfile, so a path may be local or begin with gs:// or whatever else
TensorFlow can open here.
"""

import threading

import tensorflow as tf

from hvd_imagenet import framing, retries
from hvd_imagenet.framing import CorruptRecordError

# A remote file system answers a large read about as soon as a small one.
_READ_BYTES = 4 * 2**20
# For one record, or the first ones of a file.
_FEW_BYTES = 256 * 2**10
_FIRST_RECORDS = 4
# What storage says that may answer when it is asked again.
_PASSING = (
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.NotFoundError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class RecordStream:
    """The records of one file, one after the other.

    Attributes:
        is_broken: whether the records behind a corrupt one are lost, too.
    """

    def __init__(
        self,
        path: str,
        *,
        number: int = 0,
        start: int = 0,
        read_bytes: int = _READ_BYTES,
    ):
        """Opens nothing yet.

        Args:
            path: a TFRecord file.
            number: of the record to begin with.
            start: the byte at which it begins.
            read_bytes: how much to ask for at once.
        """
        self._path = path
        self._read_bytes = read_bytes
        self._retries = retries.Retries(
            tf.errors.OpError,
            lambda error: error.message,
            lambda error: isinstance(error, _PASSING),
        )
        self._file = None
        self._buffer = b""
        self._begin = 0  # Of what is not yet taken of the buffer.
        self._position = start  # In the file, of the end of the buffer.
        self._number = number
        self.is_broken = False

    @property
    def position(self) -> int:
        """The byte at which the next record begins."""
        return self._position - len(self._buffer) + self._begin

    def skip(self, records: int) -> None:
        """Passes over records without checking their data.

        Raises:
            CorruptRecordError: as `next_record`.
            EOFError: the file ends.
        """
        for _ in range(records):
            if self._next_frame() is None:
                raise EOFError(f"{self._path} has {self._number} records.")

    def next_record(self) -> bytes | None:
        """The data of the next record; None at the end of the file.

        Raises:
            CorruptRecordError: its data do not match their CRC, or the file
                cannot be read on.
        """
        where = f"record {self._number} of {self._path}"
        frame = self._next_frame()
        if frame is None:
            return None
        return framing.checked(frame, lambda: where)

    def _next_frame(self) -> bytes | None:
        """Data and footer of the next record."""
        where = f"record {self._number} of {self._path}"
        self.is_broken = True  # Until all has gone well.
        header = self._take(framing.HEADER_BYTES)
        if header:
            self._require(header, framing.HEADER_BYTES, where)
            length = framing.data_length(header, where) + framing.FOOTER_BYTES
            frame = self._take(length)
            self._require(frame, length, where)
            self._number += 1
        self.is_broken = False
        return frame if header else None

    def _require(self, data: bytes, length: int, where: str) -> None:
        if len(data) < length:
            raise CorruptRecordError(
                f"{where} is cut: the file has only {self._position} bytes;"
                " copy or make it again."
            )

    def _take(self, length: int) -> bytes:
        """The next bytes, fewer at the end of the file."""
        end = self._begin + length
        if end > len(self._buffer):
            parts = [self._buffer[self._begin :]]
            missing = end - len(self._buffer)
            while missing > 0:
                parts.append(self._read())
                if not parts[-1]:
                    break
                missing -= len(parts[-1])
            self._buffer = b"".join(parts)
            self._begin, end = 0, length
        taken = self._buffer[self._begin : end]
        self._begin += len(taken)
        return taken

    def _read(self) -> bytes:
        """Reads on; never as far as a record claims to reach."""
        data = self._retries.read(self._attempt, self._path, lambda: self._path)
        self._position += len(data)
        return data

    def _attempt(self) -> bytes:
        try:
            if self._file is None:
                self._file = tf.io.gfile.GFile(self._path, "rb")
                self._file.seek(self._position)
            return self._file.read(self._read_bytes)
        except tf.errors.OpError:
            self._file = None  # To be opened anew.
            raise


class RecordFile:
    """The records of one file at random, for who wants few of them.

    From any thread. All of the file is read once for any record but its first
    ones, to find where the records begin.
    """

    def __init__(self, path: str):
        """Opens nothing yet."""
        self._path = path
        self._lock = threading.Lock()
        self._starts = [0]

    def read(self, number: int) -> bytes | None:
        """The data of a record; None behind the last one.

        Raises:
            CorruptRecordError: it cannot be read.
        """
        with self._lock:
            self._find(number)
            start = self._starts[number] if number < len(self._starts) else None
        if start is None:
            return None
        return RecordStream(
            self._path, number=number, start=start, read_bytes=_FEW_BYTES
        ).next_record()

    def _find(self, number: int) -> None:
        """Finds where a record begins, and its predecessors."""
        known = len(self._starts) - 1
        if number <= known:
            return
        is_first = number < _FIRST_RECORDS
        stream = RecordStream(
            self._path,
            number=known,
            start=self._starts[known],
            read_bytes=_FEW_BYTES if is_first else _READ_BYTES,
        )
        try:
            while len(self._starts) <= number or not is_first:
                stream.skip(1)
                self._starts.append(stream.position)
        except EOFError:
            pass
        except CorruptRecordError:
            if len(self._starts) <= number:
                raise
