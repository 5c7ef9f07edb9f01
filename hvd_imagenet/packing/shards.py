"""Whole shards: written so that they are complete or absent, and checked."""

import collections
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable

import google_crc32c
import numpy as np

from hvd_imagenet import framing, order, splits
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.packing import records
from hvd_imagenet.packing.options import PackOptions
from hvd_imagenet.sources import Source

_TELL_SECONDS = 0.5
_CHECK_BYTES = 1 << 22
_TEMPORARY = ".{}.tmp"

# Called with the number of images done since the last call.
Tell = Callable[[int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A file to write.

    Attributes:
        split: "train" or "validation".
        number: of the file, from 0.
        total: number of files of the split.
    """

    split: str
    number: int
    total: int

    @property
    def name(self) -> str:
        """Name of the file, as the well-known builder scripts have it."""
        return f"{self.split}-{self.number:05d}-of-{self.total:05d}"

    def images(self, length: int, seed: int) -> np.ndarray:
        """Which of a split's images are in the file, in order, int64.

        The training images are permuted over all shards, so that each is a
        sample of all classes, also for readers that do not shuffle. Validation
        keeps the source's order, so that image i stays image i.
        """
        start, end = (
            length * number // self.total
            for number in (self.number, self.number + 1)
        )
        if self.split == "train":
            return order.epoch_permutation(seed, 0, length)[start:end]
        return np.arange(start, end)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a complete shard is; all of it is plain, for JSON.

    Attributes:
        file: its name.
        bytes: its length.
        records: images in it.
        crc32c: CRC-32C of the file, 8 hexadecimal digits.
        source_bytes: what these images had in the source.
        copied: images that are the source's, to the byte.
        class_counts: images by label, counted from 0, as text.
        class_names: [WordNet ID, words] by label, as far as known.
        skipped: names of the records left out.
    """

    file: str
    bytes: int
    records: int
    crc32c: str
    source_bytes: int
    copied: int
    class_counts: dict[str, int]
    class_names: dict[str, list[str]]
    skipped: list[str]


class ShardWorker:
    """Writes and checks shards; knows nothing of other processes."""

    def __init__(self, options: PackOptions, workdir: str):
        """Opens nothing yet.

        Args:
            options: what to pack, and where to.
            workdir: directory for the index of the source.
        """
        self._options = options
        self._workdir = workdir
        self._sources: dict[str, Source] = {}

    def __getstate__(self):
        # Open files do not reach other processes.
        return self.__dict__ | {"_sources": {}}

    def source(self, split: str) -> Source:
        """The images of a split, opened once."""
        if split not in self._sources:
            config = self._options.config(self._workdir)
            self._sources[split] = splits.open_split(config, split)
        return self._sources[split]

    def pack_one(self, split: str, index: int) -> tuple[records.Packed, int]:
        """(one packed image, its bytes in the source).

        Raises:
            CorruptRecordError: it cannot be packed.
        """
        source = self.source(split)
        record, label = source.read(index)
        packed = records.pack(
            record,
            label,
            source.where(index),
            source.features,
            self._options,
        )
        return packed, len(record)

    def write(self, shard: Shard, tell: Tell) -> Report:
        """Writes a shard, or nothing.

        Raises:
            CorruptRecordError: a record cannot be packed, and on_corrupt is
                "fail".
            OSError: it cannot be written.
        """
        path = os.path.join(self._options.output_dir, shard.name)
        temporary = temporary_path(self._options.output_dir, shard.name)
        try:
            with open(temporary, "wb", buffering=1 << 20) as file:
                report = self._write(shard, file, tell)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync_directory(self._options.output_dir)
        return report

    def _write(self, shard: Shard, file, tell: Tell) -> Report:
        length = len(self.source(shard.split))
        total = crc = source_bytes = copied = 0
        counts, names, skipped = collections.Counter(), {}, []
        told, tell_at = 0, time.monotonic()
        images = shard.images(length, self._options.seed)
        for done, index in enumerate(images):
            if time.monotonic() >= tell_at:
                tell(done - told)
                told, tell_at = done, time.monotonic() + _TELL_SECONDS
            try:
                packed, had = self.pack_one(shard.split, int(index))
            except CorruptRecordError as error:
                if self._options.on_corrupt == "fail":
                    raise
                skipped.append(str(error))
                continue
            for part in framing.framed(packed.record):
                file.write(part)
                crc = google_crc32c.extend(crc, part)
                total += len(part)
            source_bytes += had
            copied += packed.is_copy
            counts[packed.label] += 1
            names.setdefault(packed.label, packed.names)
        tell(len(images) - told)
        return Report(
            file=shard.name,
            bytes=total,
            records=sum(counts.values()),
            crc32c=f"{crc:08x}",
            source_bytes=source_bytes,
            copied=copied,
            class_counts={str(k): counts[k] for k in sorted(counts)},
            class_names={
                str(k): list(names[k]) for k in sorted(names) if any(names[k])
            },
            skipped=skipped,
        )

    def is_whole(self, report: Report, tell: Tell) -> bool:
        """Whether a file is still what its report says, to the bit."""
        path = os.path.join(self._options.output_dir, report.file)
        crc = 0
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size != report.bytes:
                    return False
                while data := file.read(_CHECK_BYTES):
                    crc = google_crc32c.extend(crc, data)
                    tell(0)
        except FileNotFoundError:
            return False
        return f"{crc:08x}" == report.crc32c


def temporary_path(directory: str, name: str) -> str:
    """Where a file stands until it is complete; no reader looks there."""
    return os.path.join(directory, _TEMPORARY.format(name))


def _sync_directory(directory: str) -> None:
    """Makes a new name in it outlive a crash of the machine."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
