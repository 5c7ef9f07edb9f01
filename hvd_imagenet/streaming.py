"""Sources that are read in streams: `--shuffle=buffered`.

`StreamedSource` is a split; `StreamReader` is what one rank reads of it, by a
`StreamOrder`.
"""

import collections
import itertools
from collections.abc import Sequence

import numpy as np

from hvd_imagenet import examples
from hvd_imagenet.examples import ExampleFeatures
from hvd_imagenet.record_streams import RecordFile
from hvd_imagenet.stream_order import Part, StreamOrder
from hvd_imagenet.stream_pool import Pool, ended


class StreamedSource:
    """A split whose files are fast to read from beginning to end only."""

    def __init__(
        self, parts: Sequence[Part], features: ExampleFeatures, description: str
    ):
        """Takes what was found.

        Args:
            parts: the images in their order.
            features: where image and label are in the records.
            description: what they are, for people.
        """
        self.parts = parts
        self.features = features
        self.description = description
        counts = [part.records for part in parts]
        self._firsts = np.cumsum([0, *counts])
        self._files = {part.path: RecordFile(part.path) for part in parts}

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, index: int) -> tuple[bytes, int]:
        """(serialized tf.train.Example, -1).

        For what is wanted now and then: training reads by a `StreamReader`.
        """
        part, number = self._place(index)
        record = self._files[part.path].read(number)
        if record is None:
            raise ended(part)
        return record, -1

    def where(self, index: int) -> str:
        """File and number of the record."""
        part, number = self._place(index)
        return f"record {number} of {part.path}"

    def count_labels_from(self, label_offset: int, reason: str) -> None:
        """Takes the number of the first class, and why it is that."""
        self.features = examples.imagenet(label_offset)
        self.description += f", labels from {label_offset} ({reason})"

    def sample(self, limit: int) -> list[int]:
        """Up to `limit` images that are fast to read: the files' first."""
        firsts, counts = self._firsts.tolist(), np.diff(self._firsts).tolist()
        images = (
            first + turn
            for turn in range(max(counts))
            for first, count in zip(firsts, counts, strict=False)
            if turn < count
        )
        return list(itertools.islice(images, limit))

    def _place(self, index: int) -> tuple[Part, int]:
        """The file of a record, and its number there."""
        number = int(np.searchsorted(self._firsts, index, side="right")) - 1
        part = self.parts[number]
        return part, part.skip + index - int(self._firsts[number])


class StreamReader:
    """What one rank reads of a `StreamedSource`; a source itself.

    Records are to be asked for by `read` after `promise` has said so; any other
    is read as the split reads it.

    Attributes:
        close: ends the threads that read ahead.
    """

    def __init__(
        self, source: StreamedSource, order: StreamOrder, first_row: int
    ):
        """Begins to read when the first rows are promised.

        Args:
            source: the split.
            order: which of it, and when.
            first_row: the row that will be promised first.
        """
        self._source = source
        self.features = source.features
        self.description = source.description
        self._order = order
        self._promised_until = first_row
        self._promised = collections.Counter()
        self._pool = Pool(source.parts, order, first_row)
        self.close = self._pool.close

    def __len__(self) -> int:
        return len(self._source)

    def where(self, index: int) -> str:
        """File and number of the record."""
        return self._source.where(index)

    def promise(self, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """Says that the images of these rows will be read, and which they are.

        Rows may be promised out of order and again, but no row is left out.

        Returns:
            (images, epochs), both [len(rows)] int64.
        """
        with self._pool.lock:
            new = range(self._promised_until, rows.stop)
            if new:
                self._promised.update(self._order.images_at(new)[0].tolist())
                self._promised_until = rows.stop
                self._pool.read_until(rows.stop)
        return self._order.images_at(rows)

    def read(self, index: int) -> tuple[bytes, int]:
        """(serialized tf.train.Example, -1).

        Raises:
            CorruptRecordError: the record cannot be read, or does not come.
        """
        with self._pool.lock:
            is_promised = index in self._promised
            if is_promised:
                self._promised[index] -= 1
                if not self._promised[index]:
                    del self._promised[index]
        if is_promised:
            return self._pool.take(index, self.where(index)), -1
        return self._source.read(index)
