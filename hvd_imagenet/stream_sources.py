"""Opens the splits of a data set to be read in streams.

How many records every file has must be known before: a packed data set and one
of TensorFlow Datasets say it. Of other files on this host the index does; other
files elsewhere must be read once, to count.
"""

import json
import os
from collections.abc import Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf
from absl import logging

from hvd_imagenet import (
    examples,
    imagenet,
    packed_sets,
    shard_names,
    sources,
    tfrecords,
)
from hvd_imagenet.config import Config
from hvd_imagenet.record_streams import RecordStream
from hvd_imagenet.stream_order import Part
from hvd_imagenet.streaming import StreamedSource

_FORMATS = ("auto", "tfrecord", "tfds")
_THREADS = 16


def open_split(config: Config, split: str) -> StreamedSource:
    """Opens the "train" or "validation" split that a run asks for.

    Raises:
        ValueError: no data, another format, or missing files; one sentence
            with the remedy.
    """
    data_dir, data_format = config.data.data_dir, config.data.data_format
    if data_format not in _FORMATS:
        raise ValueError(
            f"--data_format={data_format} cannot be read in streams"
            " (--shuffle=buffered); make TFRecords of it with tools/pack, or"
            " use --shuffle=global."
        )
    names = _list(data_dir)
    if data_format == "auto":
        is_tfrecord = any(
            shard_names.shards(data_dir, names, each)
            for each in imagenet.SPLIT_NAMES
        )
        data_format = "tfrecord" if is_tfrecord else "tfds"
    if data_format == "tfds":
        return _open_tfds(config, split)
    return _open_tfrecords(config, split, names)


def _list(data_dir: str) -> list[str]:
    """Names of what is in a directory."""
    scheme = data_dir.partition("://")[0] if "://" in data_dir else ""
    known = tf.io.gfile.get_registered_schemes()
    if scheme not in known:
        raise ValueError(
            f"--data_dir={data_dir}: TensorFlow cannot read {scheme}:// here,"
            f" only {', '.join(f'{each}://' for each in known if each)}; copy"
            " the data there, or mount them."
        )
    try:
        return [name.rstrip("/") for name in tf.io.gfile.listdir(data_dir)]
    except tf.errors.OpError as error:
        raise ValueError(
            f"--data_dir={data_dir} cannot be listed ({error.message}); name a"
            " directory with TFRecords, or one of TensorFlow Datasets."
        ) from error


def _open_tfrecords(
    config: Config, split: str, names: Sequence[str]
) -> StreamedSource:
    data_dir = config.data.data_dir
    paths = shard_names.required_shards(data_dir, names, split)
    packed = None
    if packed_sets.NAME in names:
        manifest = os.path.join(data_dir, packed_sets.NAME)
        with tf.io.gfile.GFile(manifest) as file:
            packed = packed_sets.parse(file.read())
    files = [os.path.basename(path) for path in paths]
    if packed is not None and packed.records.keys() >= set(files):
        counts = [packed.records[file] for file in files]
    else:
        counts = _counts(config, split, paths)
    offset = packed_sets.label_offset(packed, config.data.label_offset)
    return StreamedSource(
        [
            Part(path, 0, count, is_end=True)
            for path, count in zip(paths, counts, strict=True)
        ],
        examples.imagenet(offset),
        f"{len(paths)} TFRecord files, read in streams",
    )


def _open_tfds(config: Config, split: str) -> StreamedSource:
    # TensorFlow Datasets takes a quarter of a second to import.
    from hvd_imagenet import tfds_sets

    found = tfds_sets.find_split(config, split)
    file_format = found.info.file_format.value
    if file_format != "tfrecord":
        raise ValueError(
            f"{found.info.full_name} is prepared in files of format"
            f" {file_format}, which cannot be read in streams"
            " (--shuffle=buffered); prepare it as tfrecord"
            " (`tfds build --file_format`), or use --shuffle=global."
        )
    names = set(_list(found.folder))
    found.require_files(lambda path: os.path.basename(path) in names)
    return StreamedSource(
        [
            Part(
                each.filename,
                each.skip,
                each.take,
                is_end=each.skip + each.take == each.examples_in_shard,
            )
            for each in found.instructions
        ],
        found.features,
        f"{found.description}, read in streams",
    )


def _counts(config: Config, split: str, paths: Sequence[str]) -> list[int]:
    """Records of every file."""
    workdir = config.run.workdir
    if config.data.local_data_dir is not None:
        index = tfrecords.load_or_build_index(
            paths, sources.index_paths(config.data.data_dir, workdir, split)
        )
        return np.diff(index.firsts).tolist()
    kept = workdir and os.path.join(workdir, "index", f"{split}.counts.json")
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        facts = list(pool.map(_facts, paths))
        if kept and tf.io.gfile.exists(kept):
            with tf.io.gfile.GFile(kept) as file:
                content = json.load(file)
            if content["files"] == facts:
                return content["records"]
        logging.info(
            "counting the records of %d files, which reads all of them; a data"
            " set that tools/pack has made says how many it has",
            len(paths),
        )
        counts = list(pool.map(_count, paths))
    if kept:
        tf.io.gfile.makedirs(os.path.dirname(kept))
        with tf.io.gfile.GFile(kept, "w") as file:
            json.dump({"files": facts, "records": counts}, file)
    return counts


def _facts(path: str) -> list[str | int]:
    """What must be unchanged for a count to hold."""
    status = tf.io.gfile.stat(path)
    return [path, status.length, status.mtime_nsec]


def _count(path: str) -> int:
    """Reads a file to its end.

    Raises:
        CorruptRecordError: it is damaged.
    """
    stream = RecordStream(path)
    count = 0
    while stream.next_record() is not None:
        count += 1
    return count
