"""Random access to encoded images: TFRecords, an image folder, synthetic.

A source is "a length and a read": everything about order, sharding and
resuming is arithmetic elsewhere (`order.py`, `plan.py`).
"""

import glob
import io
import os
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from hvd_imagenet import imagenet, tfrecords
from hvd_imagenet.config import Config
from hvd_imagenet.tfrecords import CorruptRecordError

_SHARD_NAME = re.compile(r"-(?P<number>\d+)-of-(?P<total>\d+)$")
_IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


class Source(Protocol):
    """A split of a data set.

    Attributes:
        holds_examples: whether `read` gives serialized tf.train.Example
            messages, whose label is inside, or else encoded images.
    """

    holds_examples: bool

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

    holds_examples = True

    def __init__(self, paths: Sequence[str], cache_paths: Sequence[str] = ()):
        """Opens the shards.

        Args:
            paths: the shards of a split.
            cache_paths: where to keep their index, the first preferred.

        Raises:
            ValueError: a shard is damaged, or all are empty.
        """
        index = tfrecords.load_or_build_index(paths, cache_paths)
        self._reader = tfrecords.RecordReader(paths, index)

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, index: int) -> tuple[bytes, int]:
        """(serialized tf.train.Example, -1)."""
        return self._reader.read(index), -1

    def where(self, index: int) -> str:
        """File, number and offset of the record."""
        return self._reader.where(index)


class FolderSource:
    """Images in a folder per class; labels number the sorted folders."""

    holds_examples = False

    def __init__(self, folder: str, classes: Sequence[str]):
        """Lists the images.

        Args:
            folder: the folder of a split, of one folder per class.
            classes: names of all class folders; the place is the label.

        Raises:
            ValueError: a class folder is not in `classes`.
        """
        self._paths = []
        labels = []
        label_by_class = {name: label for label, name in enumerate(classes)}
        for name in class_folders(folder):
            if name not in label_by_class:
                raise ValueError(
                    f"{os.path.join(folder, name)} is a class that the train"
                    f" split does not have (it has {len(classes)}); remove or"
                    " rename it."
                )
            inside = os.path.join(folder, name)
            files = sorted(
                entry.name
                for entry in os.scandir(inside)
                if entry.name.lower().endswith(_IMAGE_SUFFIXES)
                and not entry.name.startswith(".")
            )
            self._paths.extend(os.path.join(inside, file) for file in files)
            labels.extend([label_by_class[name]] * len(files))
        self._labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[bytes, int]:
        """(encoded image, label)."""
        try:
            with open(self._paths[index], "rb") as file:
                return file.read(), int(self._labels[index])
        except OSError as error:
            raise CorruptRecordError(
                f"{self._paths[index]} cannot be read: {error.strerror}."
            ) from error

    def where(self, index: int) -> str:
        """Path of the image."""
        return self._paths[index]


class SyntheticSource:
    """Made-up JPEGs that can be learned: a pattern per class, and noise.

    For speed without storage: a pool of images is made once, so that reading
    costs nothing and decoding what real images of that size cost.
    """

    holds_examples = False
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


def open_split(config: Config, split: str) -> Source:
    """Opens the "train" or "validation" split that a run asks for.

    Raises:
        ValueError: no data, an empty split, missing shards or classes that
            do not fit; one sentence with the remedy.
    """
    data_dir = config.data.data_dir
    data_format = config.data.data_format
    if data_format == "synthetic":
        return _open_synthetic(config, split)
    if data_dir is None:
        raise ValueError(
            "--data_dir is not given; name the directory of the images, or use"
            " --data_format=synthetic."
        )
    if not os.path.isdir(data_dir):
        raise ValueError(
            f"--data_dir={data_dir} is not a directory; name one with"
            " ImageNet-format TFRecords or an image folder."
        )
    if data_format == "auto":
        data_format = _detect_format(data_dir)
    if data_format == "tfrecord":
        source = _open_tfrecords(data_dir, split, config.run.workdir)
    else:
        source = _open_folder(data_dir, split, config.model.num_classes)
    if not len(source):
        raise ValueError(
            f"The {split} split of --data_dir={data_dir} has no images; make"
            " the data again."
        )
    override = getattr(config.data, f"{split}_images")
    if override is not None and override != len(source):
        raise ValueError(
            f"--{split}_images={override}, but --data_dir={data_dir} has"
            f" {len(source)}; leave the flag away when there is data."
        )
    return source


def class_folders(folder: str) -> list[str]:
    """Sorted names of the folders in `folder`, hidden ones left out."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _detect_format(data_dir: str) -> str:
    if _shards(data_dir, "train"):
        return "tfrecord"
    if _split_folder(data_dir, "train"):
        return "folder"
    raise ValueError(
        f"--data_dir={data_dir} has neither TFRecords named train-*-of-* nor a"
        " folder train/; name the directory that holds them."
    )


def _open_synthetic(config: Config, split: str) -> SyntheticSource:
    is_train = split == "train"
    length = getattr(config.data, f"{split}_images") or (
        imagenet.TRAIN_IMAGES if is_train else imagenet.VALIDATION_IMAGES
    )
    size = round(config.model.image_size * imagenet.RESIZE_PER_CROP)
    return SyntheticSource(
        length,
        num_classes=config.model.num_classes,
        image_size=size,
        seed=0 if is_train else 1,
    )


def _shards(data_dir: str, split: str) -> list[str]:
    """Paths of a split's shards, checked to be complete."""
    found = {}
    for name in imagenet.SPLIT_NAMES[split]:
        pattern = os.path.join(glob.escape(data_dir), f"{name}-*-of-*")
        paths = filter(_SHARD_NAME.search, sorted(glob.glob(pattern)))
        found[name] = {path: _SHARD_NAME.search(path) for path in paths}
    found = {name: paths for name, paths in found.items() if paths}
    if len(found) > 1:
        names = " and ".join(f"{name}-*-of-*" for name in found)
        raise ValueError(
            f"{data_dir} has both {names} files, which would count images"
            " twice; remove one of the two sets."
        )
    for name, matches in found.items():
        totals = {int(match["total"]) for match in matches.values()}
        numbers = sorted(int(match["number"]) for match in matches.values())
        if numbers != list(range(min(totals))) or len(totals) > 1:
            raise ValueError(
                f"{data_dir} has {len(matches)} files {name}-*-of-*, whose"
                " names say there are"
                f" {' and '.join(map(str, sorted(totals)))}; copy the missing"
                " ones, or remove those of another set."
            )
        return list(matches)
    return []


def _open_tfrecords(
    data_dir: str, split: str, workdir: str | None
) -> TFRecordSource:
    paths = _shards(data_dir, split)
    if not paths:
        names = imagenet.SPLIT_NAMES[split]
        raise ValueError(
            f"--data_dir={data_dir} has no files named"
            f" {' or '.join(f'{name}-*-of-*' for name in names)}, the {split}"
            " split; name the directory that holds them."
        )
    cache_paths = [os.path.join(data_dir, f".{split}.index.npz")]
    if workdir is not None:
        cache_paths.append(os.path.join(workdir, "index", f"{split}.npz"))
    return TFRecordSource(paths, cache_paths)


def _split_folder(data_dir: str, split: str) -> str | None:
    for name in imagenet.SPLIT_NAMES[split]:
        folder = os.path.join(data_dir, name)
        if os.path.isdir(folder):
            return folder
    return None


def _open_folder(data_dir: str, split: str, num_classes: int) -> FolderSource:
    folder = _split_folder(data_dir, split)
    train_folder = _split_folder(data_dir, "train")
    for name, found in (("train", train_folder), (split, folder)):
        if found is None:
            names = imagenet.SPLIT_NAMES[name]
            raise ValueError(
                f"--data_dir={data_dir} has no folder"
                f" {' or '.join(f'{each}/' for each in names)}, the {name}"
                " split; name the directory that holds it."
            )
    classes = class_folders(train_folder)
    if len(classes) != num_classes:
        raise ValueError(
            f"{train_folder} has {len(classes)} class folders, but"
            f" --num_classes={num_classes}; set --num_classes={len(classes)}"
            " or complete the data."
        )
    return FolderSource(folder, classes)


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
