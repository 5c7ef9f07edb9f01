"""The order of data that are read in streams, as arithmetic.

Files on a remote file system are fast to read from their beginning to their
end, and slow at random. Here a rank gets a stretch of every epoch: the files in
a new order, one behind the other, are cut into as many stretches as there are
ranks. It reads the files of its stretch a few at a time, in turn, and each
record changes its place by less than a buffer.

Every image is seen exactly once per epoch at any number of ranks, and a run
is resumed at any sample; but which images make up a step depends on the number
of ranks, and neighbours in a file stay near each other, so that files should
have been shuffled when they were written.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Files that a rank reads in turn.
LANES = 8
# Of the random numbers for files, and of those for records.
_FILES, _RECORDS = 0, 1


class Part(NamedTuple):
    """Consecutive records of one file, or of a part of one.

    Attributes:
        path: the file.
        skip: records of the file before them.
        records: how many.
        is_end: whether the file ends with them.
    """

    path: str
    skip: int
    records: int
    is_end: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive records of a part, read one after the other.

    Attributes:
        part: number of the part.
        skip: records of the part before them.
        places: [records] int64, which in the order of reading they are.
    """

    part: int
    skip: int
    places: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """What a rank has of an epoch.

    Attributes:
        epoch: number of the epoch.
        first_row: images of this rank in the epochs before.
        pieces: what is read, by the place of their first records.
        images: [length] int64, numbers of the images in the order in which the
            rank takes them.
        places: [length] int64, their places in the order of reading.
    """

    epoch: int
    first_row: int
    pieces: Sequence[Piece]
    images: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


class StreamOrder:
    """The images of one rank, as one stream over the epochs.

    A row is the place of an image in the stream, from 0.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        rows_before: Callable[[int, int], int],
        rank: int,
        seed: int,
        buffer_size: int,
    ):
        """Plans nothing yet.

        Args:
            parts: what there is to read, the images of a split in their order.
            rows_before: images that a rank takes before the end of so many
                epochs, by (epochs, rank).
            rank: whose stream it is.
            seed: seed of the run.
            buffer_size: how far an image may change its place; 0 leaves files
                and images in their order.
        """
        self._lengths = np.array([part.records for part in parts], np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(self._lengths)])
        self._rows_before = rows_before
        self._rank = rank
        self._seed = seed
        self.buffer_size = buffer_size
        # A batch may span two epochs, and who reads ahead is in a third.
        self.stretch = functools.lru_cache(maxsize=3)(self._stretch)

    def images_at(self, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """Images at consecutive rows.

        Returns:
            (images, epochs), both [len(rows)] int64.
        """
        images, epochs = [], []
        for stretch in self.stretches(rows.start):
            offset = stretch.first_row
            if offset >= rows.stop:
                break
            start, stop = max(rows.start - offset, 0), rows.stop - offset
            images.append(stretch.images[start:stop])
            epochs.append(np.full(len(images[-1]), stretch.epoch, np.int64))
        empty = np.empty(0, np.int64)
        return np.concatenate([empty, *images]), np.concatenate(
            [empty, *epochs]
        )

    def stretches(self, row: int) -> Iterator[Stretch]:
        """The stretch that `row` is in, and all after it."""
        epoch = 0
        while self._rows_before(epoch + 1, self._rank) <= row:
            epoch += 1
        while True:
            yield self.stretch(epoch)
            epoch += 1

    def _stretch(self, epoch: int) -> Stretch:
        first_row = self._rows_before(epoch, self._rank)
        counts = [
            self._rows_before(epoch + 1, rank) - self._rows_before(epoch, rank)
            for rank in range(self._rank + 1)
        ]
        pieces = self._pieces(epoch, sum(counts[:-1]), counts[-1])
        read = np.empty(counts[-1], np.int64)
        for piece in pieces:
            first = self._firsts[piece.part] + piece.skip
            read[piece.places] = first + np.arange(len(piece.places))
        keys = np.arange(len(read), dtype=np.float64)
        if self.buffer_size:
            keys += self.buffer_size * _uniform(
                [self._seed, epoch, self._rank, _RECORDS], len(read)
            )
        places = np.argsort(keys, kind="stable")
        return Stretch(
            epoch=epoch,
            first_row=first_row,
            pieces=pieces,
            images=read[places],
            places=places,
        )

    def _pieces(self, epoch: int, start: int, length: int) -> list[Piece]:
        """What is read of the files in their order, from record `start` on."""
        order = np.arange(len(self._lengths))
        if self.buffer_size:
            keys = _uniform([self._seed, epoch, 0, _FILES], len(order))
            order = np.argsort(keys, kind="stable")
        ends = np.cumsum(self._lengths[order])
        cut = []
        for part, end in zip(order.tolist(), ends.tolist(), strict=True):
            first = end - int(self._lengths[part])
            skip = max(start - first, 0)
            stop = min(start + length, end) - first
            if stop > skip:
                cut.append((part, skip, stop - skip))
        lanes = LANES if self.buffer_size else 1
        places = _in_turn([count for *_, count in cut], lanes)
        return [
            Piece(part=part, skip=skip, places=own)
            for (part, skip, _), own in zip(cut, places, strict=True)
        ]


def _in_turn(counts: Sequence[int], lanes: int) -> list[np.ndarray]:
    """Places of records that are taken from `lanes` files at a time, in turn.

    Args:
        counts: records of the files, all above 0. A file that has ended is
            replaced by the next one.
        lanes: files at a time.

    Returns:
        For every file [records] int64, places from 0.
    """
    places = [[] for _ in counts]
    waiting = collections.deque(range(len(counts)))
    left = list(counts)
    lane = [waiting.popleft() for _ in range(min(lanes, len(counts)))]
    begun = 0
    while lane:
        rounds = min(left[file] for file in lane)
        for turn, file in enumerate(lane):
            places[file].append(
                begun + turn + len(lane) * np.arange(rounds, dtype=np.int64)
            )
            left[file] -= rounds
        begun += rounds * len(lane)
        lane = [
            file if left[file] else waiting.popleft() if waiting else None
            for file in lane
        ]
        lane = [file for file in lane if file is not None]
    return [np.concatenate(own) for own in places]


def _uniform(key: Sequence[int], length: int) -> np.ndarray:
    """[length] float64 from 0 to 1, of the key alone.

    From the raw output of a Philox generator, which NumPy keeps stable between
    its versions.
    """
    seed, epoch, rank, kind = key
    generator = np.random.Philox(key=[seed, epoch], counter=[0, 0, rank, kind])
    return generator.random_raw(length) / 2.0**64
