"""Makes small data sets with TensorFlow Datasets, as anyone would."""

import io
import os
import pathlib

import tensorflow_datasets as tfds

import image_data

CLASSES = ("ant", "bee", "cat")


def encoded(split: str, number: int) -> bytes:
    """The image of an example, no two the same."""
    pixels = image_data.pixels(30 + number, 34, [len(split), number])
    return image_data.encode(pixels)


def prepare(
    data_dir: pathlib.Path,
    file_format: str,
    *,
    name: str = "tiny",
    version: str = "1.0.0",
    config: str | None = None,
    counts: dict[str, int],
    shards: int = 1,
    features: dict | None = None,
) -> pathlib.Path:
    """Prepares a data set in a TFDS data directory.

    Args:
        data_dir: the data directory.
        file_format: "tfrecord", "array_record", ...
        name: of the data set.
        version: of the data set.
        config: name of its configuration.
        counts: examples by split; example i is of class i % 3.
        shards: files per split.
        features: other features than `image` and `label`, with the same values
            by kind.

    Returns:
        The folder of its files.
    """
    features = features or {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=CLASSES),
    }

    def example(split: str, number: int) -> dict:
        return {
            name: io.BytesIO(encoded(split, number))
            if isinstance(kind, tfds.features.Image)
            else number % len(CLASSES)
            for name, kind in features.items()
        }

    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        config=config,
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: [(number, example(split, number)) for number in range(count)]
            for split, count in counts.items()
        },
        data_dir=os.fspath(data_dir),
        file_format=file_format,
        download_config=tfds.download.DownloadConfig(
            num_shards=shards, try_download_gcs=False
        ),
    )
    return pathlib.Path(builder.data_dir)
