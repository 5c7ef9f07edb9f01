"""Data sets that TensorFlow Datasets (TFDS) has prepared, read at random.

Any data set with one image and one class label per example, from files of
TFDS's formats tfrecord and array_record.
"""

import os

import numpy as np
import tensorflow_datasets as tfds

from hvd_imagenet import tfds_sets, tfrecords
from hvd_imagenet.arrayrecords import ArrayRecordReader
from hvd_imagenet.config import Config
from hvd_imagenet.examples import ExampleFeatures
from hvd_imagenet.sources import index_paths


class TfdsSource:
    """A split of a prepared data set, or a part of one."""

    def __init__(
        self,
        reader: tfrecords.RecordReader | ArrayRecordReader,
        records: np.ndarray,
        features: ExampleFeatures,
        description: str,
    ):
        """Takes the records of files that are open.

        Args:
            reader: the records of the files.
            records: [images] int64, which of them, in order.
            features: where image and label are in them.
            description: what they are, for people.
        """
        self._reader = reader
        self._records = records
        self.features = features
        self.description = description

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> tuple[bytes, int]:
        """(serialized tf.train.Example, -1)."""
        return self._reader.read(int(self._records[index])), -1

    def where(self, index: int) -> str:
        """File and number of the record."""
        return self._reader.where(int(self._records[index]))


def open_split(config: Config, split: str) -> TfdsSource:
    """Opens the "train" or "validation" split of `--tfds_name`.

    Raises:
        ValueError: as `tfds_sets.find_split`, or files are missing or others.
    """
    found = tfds_sets.find_split(config, split)
    found.require_files(os.path.isfile)
    paths = list(found.lengths)
    reader, counts = _open_files(
        found.info, paths, index_paths(found.folder, config.run.workdir, split)
    )
    for path, count in zip(paths, counts, strict=True):
        if count != found.lengths[path]:
            raise ValueError(
                f"{path} has {count} records, but the dataset_info.json beside"
                f" it says {found.lengths[path]}; copy both again from one"
                " place."
            )
    firsts = dict(zip(paths, np.cumsum([0, *counts]), strict=False))
    ranges = [
        firsts[each.filename] + np.arange(each.skip, each.skip + each.take)
        for each in found.instructions
    ]
    return TfdsSource(
        reader, np.concatenate(ranges), found.features, found.description
    )


def _open_files(
    info: tfds.core.DatasetInfo, paths: list[str], cache_paths: list[str]
) -> tuple[tfrecords.RecordReader | ArrayRecordReader, list[int]]:
    """(reader, records of every file)."""
    file_format = info.file_format.value
    if file_format == "array_record":
        reader = ArrayRecordReader(paths)
        return reader, reader.counts
    if file_format == "tfrecord":
        index = tfrecords.load_or_build_index(paths, cache_paths)
        counts = np.diff(index.firsts).tolist()
        return tfrecords.RecordReader(paths, index), counts
    raise ValueError(
        f"{info.full_name} is prepared in files of format {file_format}, which"
        " cannot be read here; prepare it as tfrecord or array_record"
        " (`tfds build --file_format`)."
    )
