"""Threads that read files ahead of the training.

Each reads one file at a time, in the order of a `StreamOrder`, and every record
is kept until it is asked for: at most the buffer, and what is read ahead.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.record_streams import RecordStream
from hvd_imagenet.stream_order import LANES, Part, StreamOrder

# Rows that are read ahead of those that the buffer needs.
_AHEAD = 256
# Longer than `retries` tries a read again.
_PATIENCE_SECONDS = 300.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """Consecutive records of a file that one thread reads.

    Attributes:
        part: what they are of.
        skip: records of the part before them.
        images: [records] int64, their numbers in the split.
        rows: [records] int64, their places in the order of reading.
        is_wanted: [records] bool, false where the run has had them already.
    """

    part: Part
    skip: int
    images: np.ndarray
    rows: np.ndarray
    is_wanted: np.ndarray


class Pool:
    """Records that were read and are not yet asked for.

    Attributes:
        lock: held by who changes anything here; may be taken again.
    """

    def __init__(
        self, parts: Sequence[Part], order: StreamOrder, first_row: int
    ):
        """Begins to read at the first call of `read_until`.

        Args:
            parts: what there is to read.
            order: which of it, and when.
            first_row: the row to begin with.
        """
        self.lock = threading.RLock()
        self._arrived = threading.Condition(self.lock)
        self._room = threading.Condition(self.lock)
        self._buffer_size = order.buffer_size
        self._tasks = _tasks(parts, order, first_row)
        self._records: dict[int, list[bytes | CorruptRecordError]] = {}
        self._waited_for: set[int] = set()
        self._limit = 0
        self._is_closed = False
        self._threads: list[threading.Thread] = []

    def read_until(self, row: int) -> None:
        """Lets the threads read what the rows before `row` need.

        The lock must be held.
        """
        self._limit = row + self._buffer_size + _AHEAD
        self._room.notify_all()
        while len(self._threads) < LANES:
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()

    def take(self, index: int, where: str) -> bytes:
        """A record that the threads have read or will read.

        Raises:
            CorruptRecordError: it cannot be read, or does not come.
        """
        with self.lock:
            self._waited_for.add(index)
            has_come = self._arrived.wait_for(
                lambda: self._is_closed or index in self._records,
                _PATIENCE_SECONDS,
            )
            self._waited_for.discard(index)
            if self._is_closed:
                # Asked for by what is read ahead of a run that has ended.
                raise CorruptRecordError(f"{where} is not read any more.")
            if not has_come:
                raise CorruptRecordError(
                    f"{where} was not read within"
                    f" {_PATIENCE_SECONDS:.0f} s; see whether its storage"
                    " answers."
                )
            kept = self._records[index]
            record = kept.pop()
            if not kept:
                del self._records[index]
        if isinstance(record, CorruptRecordError):
            raise record
        return record

    def close(self) -> None:
        """Ends the threads, each when it has read a record."""
        with self.lock:
            self._is_closed = True
            # TensorFlow may keep who has this for as long as the process runs.
            self._records.clear()
            self._arrived.notify_all()
            self._room.notify_all()

    def _work(self) -> None:
        while not self._is_closed:
            with self.lock:
                # In the order of their first rows: what is not yet begun is
                # never needed before what is.
                task = next(self._tasks)
            records = _records(task)
            for index, row, is_wanted in zip(
                task.images.tolist(),
                task.rows.tolist(),
                task.is_wanted.tolist(),
                strict=True,
            ):
                if not self._has_room(row):
                    return
                record = next(records)
                if is_wanted:
                    self._put(index, record)

    def _has_room(self, row: int) -> bool:
        """Waits until `row` may be read; False if there is no need any more."""
        with self.lock:
            self._room.wait_for(lambda: self._is_closed or row < self._limit)
            return not self._is_closed

    def _put(self, index: int, record: bytes | CorruptRecordError) -> None:
        with self.lock:
            if self._is_closed:
                return
            # The same image may be there for two epochs.
            self._records.setdefault(index, []).append(record)
            if index in self._waited_for:
                self._arrived.notify_all()


def _tasks(
    parts: Sequence[Part], order: StreamOrder, first_row: int
) -> Iterator[_Task]:
    """What is to be read from `first_row` on, without end."""
    for stretch in order.stretches(first_row):
        is_wanted = np.ones(len(stretch), bool)
        done = max(first_row - stretch.first_row, 0)
        is_wanted[stretch.places[:done]] = False
        images = np.empty_like(stretch.images)
        images[stretch.places] = stretch.images
        for piece in stretch.pieces:
            (wanted,) = np.nonzero(is_wanted[piece.places])
            if not len(wanted):
                continue
            places = piece.places[wanted[0] :]
            yield _Task(
                part=parts[piece.part],
                skip=piece.skip + int(wanted[0]),
                images=images[places],
                rows=stretch.first_row + places,
                is_wanted=is_wanted[places],
            )


def _records(task: _Task) -> Iterator[bytes | CorruptRecordError]:
    """Every record of a task, or why it cannot be had."""
    part, count = task.part, len(task.images)
    stream = RecordStream(part.path)
    lost = None
    try:
        stream.skip(part.skip + task.skip)
    except CorruptRecordError as error:
        lost = error
    except EOFError:
        lost = ended(part)
    for number in range(task.skip, task.skip + count):
        record = lost
        if lost is None:
            try:
                record = stream.next_record()
                if record is None:
                    lost = record = ended(part)
                elif number + 1 == part.records and part.is_end:
                    _require_end(part, stream)
            except CorruptRecordError as error:
                record = error
                lost = error if stream.is_broken else None
        yield record


def ended(part: Part) -> CorruptRecordError:
    """What is wrong with a file that has fewer records than were counted."""
    return CorruptRecordError(
        f"{part.path} has fewer than the {part.skip + part.records} records"
        " that were counted in it; copy it again, or count them anew."
    )


def _require_end(part: Part, stream: RecordStream) -> None:
    """A file with more than is known of it would silently lose the rest."""
    if stream.next_record() is not None:
        raise CorruptRecordError(
            f"{part.path} has more than the {part.skip + part.records} records"
            " that were counted in it; copy it again, or count them anew."
        )
