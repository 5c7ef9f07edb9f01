"""Image folders: the files of a split, and their labels.

    DATA/train/n01440764/n01440764_10026.JPEG
    DATA/val/n01440764/ILSVRC2012_val_00000293.JPEG
    DATA/val/ILSVRC2012_val_00000293.JPEG

A label is the place of the image's class folder among the sorted class folders
of train/, or of val/ where that is all there is. Validation images may also lie
directly in val/, as ImageNet's tar file has them; `flat_labels.py` labels
those.
"""

import os
from collections.abc import Sequence

import numpy as np

from hvd_imagenet import flat_labels, imagenet, retries
from hvd_imagenet.config import Config

_IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


class FolderSource:
    """Image files, read at random."""

    features = None

    def __init__(
        self, paths: Sequence[str], labels: Sequence[int], description: str
    ):
        """Takes what was found.

        Args:
            paths: image files.
            labels: their classes.
            description: what they are, for people.
        """
        self._paths = list(paths)
        self._labels = np.array(labels, np.int32)
        self._retries = retries.Retries()
        self.description = description

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[bytes, int]:
        """(encoded image, label)."""
        path = self._paths[index]
        encoded = self._retries.read(lambda: _content(path), path, lambda: path)
        return encoded, int(self._labels[index])

    def where(self, index: int) -> str:
        """Path of the image."""
        return self._paths[index]


def split_folder(data_dir: str, split: str) -> str | None:
    """The folder of a split, or None."""
    for name in imagenet.SPLIT_NAMES[split]:
        folder = os.path.join(data_dir, name)
        if os.path.isdir(folder):
            return folder
    return None


def open_split(config: Config, split: str) -> FolderSource:
    """Lists the "train" or "validation" images.

    Raises:
        ValueError: a folder is missing, or the classes do not fit.
    """
    data_dir, num_classes = config.data.data_dir, config.model.num_classes
    folder = split_folder(data_dir, split)
    if folder is None:
        names = imagenet.SPLIT_NAMES[split]
        raise ValueError(
            f"--data_dir={data_dir} has no folder"
            f" {' or '.join(f'{each}/' for each in names)}, the {split}"
            " split; name the directory that holds it."
        )
    classes = class_names(data_dir, num_classes)
    if len(classes) != num_classes:
        raise ValueError(
            f"{split_folder(data_dir, 'train') or folder} has"
            f" {len(classes)} class folders, but --num_classes={num_classes};"
            f" set --num_classes={len(classes)} or complete the data."
        )
    if split == "train":
        return _by_class(folder, classes)
    labels_path = config.data.validation_labels
    if _class_folders(folder):
        if labels_path is not None:
            raise ValueError(
                f"--validation_labels={labels_path} is not needed for {folder},"
                " whose class folders are the labels; leave the flag out."
            )
        return _by_class(folder, classes)
    return _flat(folder, classes, labels_path)


def class_names(data_dir: str, num_classes: int) -> list[str]:
    """Names of the class folders; the place is the label.

    Those of train/. Where there are validation images alone, theirs; and if
    these have no class folders either, ImageNet's synsets, for 1,000 classes.
    """
    train = split_folder(data_dir, "train")
    if train is not None:
        return _class_folders(train)
    classes = _class_folders(split_folder(data_dir, "validation"))
    if classes or num_classes != imagenet.CLASSES:
        return classes
    # TensorFlow Datasets takes a quarter of a second to import.
    from hvd_imagenet import synsets

    return synsets.sorted_synsets()


def _by_class(folder: str, classes: Sequence[str]) -> FolderSource:
    paths, labels = [], []
    label_by_class = {name: label for label, name in enumerate(classes)}
    for name in _class_folders(folder):
        inside = os.path.join(folder, name)
        if name not in label_by_class:
            raise ValueError(
                f"{inside} is a class that the train split does not have (it"
                f" has {len(classes)}); remove or rename it."
            )
        files = _images(inside)
        paths.extend(os.path.join(inside, file) for file in files)
        labels.extend([label_by_class[name]] * len(files))
    return FolderSource(paths, labels, "image files in class folders")


def _flat(
    folder: str, classes: Sequence[str], labels_path: str | None
) -> FolderSource:
    files = _images(folder)
    if labels_path is None:
        labels = flat_labels.official(folder, files, classes)
        source = "by ImageNet's own file names"
    else:
        labels = flat_labels.read(labels_path, files, classes)
        source = f"by {labels_path}"
    return FolderSource(
        [os.path.join(folder, file) for file in files],
        labels,
        f"image files, labels {source}",
    )


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _class_folders(folder: str) -> list[str]:
    """Sorted names of the folders in `folder`, hidden ones left out."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _images(folder: str) -> list[str]:
    """Sorted names of the images in `folder`, hidden ones left out."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(_IMAGE_SUFFIXES)
        and not entry.name.startswith(".")
    )
