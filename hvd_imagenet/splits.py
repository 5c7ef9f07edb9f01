"""Finds the splits of a data set in its directory and opens them."""

import glob
import os
import re

from hvd_imagenet import folders, imagenet
from hvd_imagenet.config import Config
from hvd_imagenet.sources import (
    Source,
    SyntheticSource,
    TFRecordSource,
    index_paths,
)

_SHARD_NAME = re.compile(r"-(?P<number>\d+)-of-(?P<total>\d+)$")


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
            " ImageNet-format TFRecords or an image folder, or one of"
            " TensorFlow Datasets."
        )
    if data_format == "auto":
        data_format = _detect_format(data_dir, config.data.tfds_name)
    labels_path = config.data.validation_labels
    if labels_path is not None and data_format != "folder":
        raise ValueError(
            f"--validation_labels={labels_path} is for --data_format=folder,"
            f" and this is {data_format}; leave the flag out."
        )
    if data_format == "tfrecord":
        source = _open_tfrecords(config, split)
    elif data_format == "tfds":
        source = _open_tfds(config, split)
    else:
        source = folders.open_split(config, split)
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


def _detect_format(data_dir: str, tfds_name: str) -> str:
    if _shards(data_dir, "train"):
        return "tfrecord"
    if folders.split_folder(data_dir, "train"):
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


def _open_tfrecords(config: Config, split: str) -> TFRecordSource:
    data_dir = config.data.data_dir
    paths = _shards(data_dir, split)
    if not paths:
        names = imagenet.SPLIT_NAMES[split]
        raise ValueError(
            f"--data_dir={data_dir} has no files named"
            f" {' or '.join(f'{name}-*-of-*' for name in names)}, the {split}"
            " split; name the directory that holds them."
        )
    return TFRecordSource(
        paths,
        index_paths(data_dir, config.run.workdir, split),
        label_offset=config.data.label_offset,
    )


def _open_tfds(config: Config, split: str) -> Source:
    # TensorFlow Datasets takes a quarter of a second to import.
    from hvd_imagenet import tfds_source

    return tfds_source.open_split(config, split)
