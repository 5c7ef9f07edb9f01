"""Finds the splits of a data set in its directory and opens them."""

import contextlib
import os
import pathlib
import re

from hvd_imagenet import folders, imagenet, packed_sets, shard_names
from hvd_imagenet.config import Config
from hvd_imagenet.sources import (
    Source,
    SyntheticSource,
    TFRecordSource,
    index_paths,
)


def open_split(config: Config, split: str) -> Source:
    """Opens the "train" or "validation" split that a run asks for.

    Raises:
        ValueError: no data, an empty split, missing shards or classes that
            do not fit; one sentence with the remedy.
    """
    data_dir = config.data.data_dir
    if config.data.data_format == "synthetic":
        return _open_synthetic(config, split)
    if data_dir is None:
        raise ValueError(
            "--data_dir is not given; name the directory of the images, or use"
            " --data_format=synthetic."
        )
    if config.data.shuffle == "buffered":
        source = _open_streamed(config, split)
    else:
        source = _open_at_random(config, split)
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


def _open_at_random(config: Config, split: str) -> Source:
    data_dir = config.data.data_dir
    data_format = config.data.data_format
    if config.data.local_data_dir is None:
        raise ValueError(
            f"--data_dir={data_dir} is not a path of this host, and"
            " --shuffle=global needs random access; read it in streams"
            " (--shuffle=buffered), mount it, or copy the data."
        )
    if not os.path.isdir(data_dir):
        raise ValueError(
            f"--data_dir={data_dir} is not a directory; name one with"
            " ImageNet-format TFRecords or an image folder, or one of"
            " TensorFlow Datasets."
        )
    if data_format == "auto":
        data_format = detect_format(data_dir, config.data.tfds_name)
    labels_path = config.data.validation_labels
    if labels_path is not None and data_format != "folder":
        raise ValueError(
            f"--validation_labels={labels_path} is for --data_format=folder,"
            f" and this is {data_format}; leave the flag out."
        )
    if data_format == "tfrecord":
        return _open_tfrecords(config, split)
    if data_format == "tfds":
        return _open_tfds(config, split)
    return folders.open_split(config, split)


def detect_format(data_dir: str, tfds_name: str) -> str:
    """What `--data_format=auto` stands for.

    Raises:
        ValueError: nothing that is known is there.
    """
    # Either split: to evaluate takes the validation images alone.
    names = os.listdir(data_dir)
    splits = tuple(imagenet.SPLIT_NAMES)
    if any(shard_names.shards(data_dir, names, split) for split in splits):
        return "tfrecord"
    if any(folders.split_folder(data_dir, split) for split in splits):
        return "folder"
    tfds_folder = re.split("[/:]", tfds_name)[0]
    if os.path.isdir(os.path.join(data_dir, tfds_folder)):
        return "tfds"
    raise ValueError(
        f"--data_dir={data_dir} has neither TFRecords named train-*-of-* nor a"
        f" folder train/, nor {tfds_folder}/ of TensorFlow Datasets"
        " (--tfds_name); name the directory that holds them."
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


def _open_tfrecords(config: Config, split: str) -> TFRecordSource:
    data_dir, workdir = config.data.data_dir, config.run.workdir
    paths = shard_names.required_shards(data_dir, os.listdir(data_dir), split)
    packed = None
    with contextlib.suppress(FileNotFoundError):
        manifest = pathlib.Path(data_dir, packed_sets.NAME)
        packed = packed_sets.parse(manifest.read_text(encoding="utf-8"))
    return TFRecordSource(
        paths,
        index_paths(data_dir, workdir, split),
        label_offset=packed_sets.label_offset(packed, config.data.label_offset),
    )


def _open_streamed(config: Config, split: str) -> Source:
    # TensorFlow takes seconds to start.
    from hvd_imagenet import stream_sources

    return stream_sources.open_split(config, split)


def _open_tfds(config: Config, split: str) -> Source:
    # TensorFlow Datasets takes a quarter of a second to import.
    from hvd_imagenet import tfds_source

    return tfds_source.open_split(config, split)
