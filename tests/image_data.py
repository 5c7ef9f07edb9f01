"""Makes small data sets as ImageNet has them: shards, folders, odd files."""

import io
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from hvd_imagenet import raw_images


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture that no shift, flip or channel swap leaves as it is.

    Args:
        height: in pixels.
        width: in pixels.
        seed: another one, another picture.

    Returns:
        [height, width, 3] uint8; soft, as JPEG is made for.
    """
    cells = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(cells).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(image)


def encode(
    image: np.ndarray | Image.Image, file_format: str = "JPEG", **options
) -> bytes:
    """The bytes of an image file.

    Args:
        image: pixels, or an image of Pillow in any mode.
        file_format: as Pillow names it.
        **options: of Pillow's writer.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if file_format == "JPEG":
        options = {"quality": 90} | options
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def example(
    encoded: bytes,
    number: int,
    *,
    image: str = "image/encoded",
    label: str = "image/class/label",
    synset: str | None = None,
) -> bytes:
    """A record, by default as the ImageNet builder scripts write it.

    Args:
        encoded: an image file.
        number: class as it is stored; the scripts count from 1.
        image: name of the feature that holds the image.
        label: name of the feature that holds the class.
        synset: the class as WordNet names it; None to leave it out.
    """
    features = {
        image: tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "image/format": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[b"JPEG"])
        ),
        label: tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
    }
    if synset is not None:
        features["image/class/synset"] = tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[synset.encode()])
        )
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString(deterministic=True)


def raw_example(image: np.ndarray, label: int) -> bytes:
    """A record whose pixels nobody has to decode."""
    return example(raw_images.encode(image), label)


def write_records(path: pathlib.Path, records: Iterable[bytes]) -> None:
    """Writes one TFRecord file with TensorFlow's own writer."""
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for record in records:
            writer.write(record)


def write_shards(
    directory: pathlib.Path, name: str, shards: Sequence[Sequence[bytes]]
) -> list[str]:
    """Writes NAME-00000-of-0000N and so on; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, records in enumerate(shards):
        path = directory / f"{name}-{number:05d}-of-{len(shards):05d}"
        write_records(path, records)
        paths.append(os.fspath(path))
    return paths


def write_folders(
    directory: pathlib.Path, images_by_class: dict[str, dict[str, bytes]]
) -> None:
    """Writes DIRECTORY/CLASS/NAME for every class and image file name."""
    for name, images in images_by_class.items():
        folder = directory / name
        folder.mkdir(parents=True)
        for file, encoded in images.items():
            (folder / file).write_bytes(encoded)
