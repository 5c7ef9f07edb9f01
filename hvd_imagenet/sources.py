"""Random access to encoded images: what a source is, and two of them.

A source is "a length and a read": everything about order, sharding and
resuming is arithmetic elsewhere (`order.py`, `plan.py`).
"""

import io
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from hvd_imagenet import examples, tfrecords
from hvd_imagenet.examples import ExampleFeatures


class Source(Protocol):
    """A split of a data set.

    Attributes:
        features: where image and label are in the serialized tf.train.Example
            messages that `read` gives; None if it gives encoded images.
        description: what the images and labels are taken from, for people.
    """

    features: ExampleFeatures | None
    description: str

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes, int]:
        """(record, label) of one image; label -1 if it is in the record.

        Raises:
            CorruptRecordError: the record cannot be read.
        """

    def where(self, index: int) -> str:
        """Names the record for messages."""


class TFRecordSource:
    """ImageNet-format TFRecord shards, read at random."""

    def __init__(
        self,
        paths: Sequence[str],
        cache_paths: Sequence[str] = (),
        *,
        label_offset: int | None,
    ):
        """Opens the shards.

        Args:
            paths: the shards of a split.
            cache_paths: where to keep their index, the first preferred.
            label_offset: number that is stored for the first class; None if
                it is still to be detected.

        Raises:
            ValueError: a shard is damaged, or all are empty.
        """
        self.features = examples.imagenet(label_offset)
        noun = "file" if len(paths) == 1 else "files"
        self.description = f"{len(paths)} TFRecord {noun}"
        if label_offset is not None:
            self.count_labels_from(label_offset, "--label_offset")
        index = tfrecords.load_or_build_index(paths, cache_paths)
        self._reader = tfrecords.RecordReader(paths, index)

    def count_labels_from(self, label_offset: int, reason: str) -> None:
        """Takes the number of the first class, and why it is that."""
        self.features = examples.imagenet(label_offset)
        self.description += f", labels from {label_offset} ({reason})"

    def sample(self, limit: int) -> list[int]:
        """Up to `limit` images that stand for all."""
        shuffled = np.random.default_rng(0).permutation(len(self))[:limit]
        # Where data is sorted by class, its ends tell.
        ends = [0, len(self) - 1]
        return [*dict.fromkeys([*ends, *shuffled.tolist()])][:limit]

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, index: int) -> tuple[bytes, int]:
        """(serialized tf.train.Example, -1)."""
        return self._reader.read(index), -1

    def where(self, index: int) -> str:
        """File, number and offset of the record."""
        return self._reader.where(index)


class SyntheticSource:
    """Made-up JPEGs that can be learned: a pattern per class, and noise.

    For speed without storage: a pool of images is made once, so that reading
    costs nothing and decoding what real images of that size cost.
    """

    features = None
    description = "synthetic images"
    _POOL = 512
    _CELLS = 8

    def __init__(
        self, length: int, *, num_classes: int, image_size: int, seed: int
    ):
        """Makes the pool.

        Args:
            length: images in the split.
            num_classes: number of classes; image i is of class
                i % num_classes, as far as the pool reaches.
            image_size: side of the square images in pixels.
            seed: seed of the noise; the patterns depend on the class alone.
        """
        self._length = length
        count = min(length, self._POOL)
        self._labels = np.arange(count) % num_classes
        self._pool = [
            _synthetic_jpeg(int(label), image_size, [seed, number])
            for number, label in enumerate(self._labels)
        ]

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> tuple[bytes, int]:
        """(JPEG, label)."""
        number = index % len(self._pool)
        return self._pool[number], int(self._labels[number])

    def where(self, index: int) -> str:
        """Number of the image."""
        return f"synthetic image {index}"


def index_paths(directory: str, workdir: str | None, split: str) -> list[str]:
    """Where the index of a split's TFRecords may be kept, best first."""
    paths = [os.path.join(directory, f".{split}.index.npz")]
    if workdir is not None:
        paths.append(os.path.join(workdir, "index", f"{split}.npz"))
    return paths


def _synthetic_jpeg(label: int, size: int, seed: list[int]) -> bytes:
    cells = SyntheticSource._CELLS
    pattern = np.random.default_rng(label).integers(0, 256, (cells, cells, 3))
    noise = np.random.default_rng(seed).normal(0, 16, (size, size, 3))
    image = Image.fromarray(pattern.astype(np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
