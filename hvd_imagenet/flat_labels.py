"""Labels of validation images that lie in one folder, without class folders.

A label file has one line per image, `LABEL` in the order of the sorted file
names, or `NAME LABEL`. LABEL is the name of a class folder of train/ (for
ImageNet the synset, n01440764), or its place from 0 in their sorted list.

ILSVRC2012_validation_ground_truth.txt of ImageNet's development kit has numbers
from 1 in an order of its own, which only the kit's meta.mat can tell: they look
like places and are not. So numbers are taken only where there is a 0, which the
kit does not have, and of images with ImageNet's own names only if they agree
with the labels that TensorFlow Datasets lists for these. Such images need no
label file at all.
"""

import os
import re
from collections.abc import Sequence

_OFFICIAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def official(
    folder: str, files: Sequence[str], classes: Sequence[str]
) -> list[int]:
    """Labels of images that have ImageNet's own names.

    Args:
        folder: where they are, for messages.
        files: their names.
        classes: names of the class folders; the place is the label.

    Raises:
        ValueError: one is named otherwise, or is of no such class.
    """
    official_synsets = _official_synsets(files)
    if official_synsets is None:
        raise ValueError(
            f"{folder} has images and no class folders; sort them into class"
            " folders, or give their labels by --validation_labels."
        )
    places = {name: place for place, name in enumerate(classes)}
    for file, synset in zip(files, official_synsets, strict=True):
        if synset not in places:
            raise ValueError(
                f"{os.path.join(folder, file)} is of class {synset}, which the"
                " train split does not have; remove it, or complete the train"
                " split."
            )
    return [places[synset] for synset in official_synsets]


def read(path: str, files: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Labels of images by a label file.

    Args:
        path: the label file.
        files: sorted names of the images.
        classes: names of the class folders; the place is the label.

    Raises:
        ValueError: it cannot be read, does not fit the images, or cannot be
            understood for sure.
    """
    texts = _by_file(path, files)
    places = {name: place for place, name in enumerate(classes)}
    unknown = [text for text in texts if text not in places]
    if not unknown:
        return [places[text] for text in texts]
    for text in unknown:
        if not text.isdecimal():
            raise ValueError(
                f"--validation_labels={path} has the label {text}, which is"
                f" neither one of the {len(classes)} class folders of the train"
                " split nor a number; correct it."
            )
    return _places(path, [int(text) for text in texts], files, classes)


def _places(
    path: str,
    numbers: Sequence[int],
    files: Sequence[str],
    classes: Sequence[str],
) -> list[int]:
    """Numbers that are places in the sorted classes, for sure."""
    if max(numbers) >= len(classes) or min(numbers) > 0:
        raise ValueError(
            f"--validation_labels={path} has the numbers {min(numbers)} to"
            f" {max(numbers)}, and places in the sorted list of the"
            f" {len(classes)} classes are 0 to {len(classes) - 1} (the"
            " development kit's ILSVRC2012_validation_ground_truth.txt has"
            " another order); write names of classes instead, or leave the flag"
            " out if the images have ImageNet's own names."
        )
    for file, number, synset in zip(
        files, numbers, _official_synsets(files) or (), strict=False
    ):
        if classes[number] != synset:
            raise ValueError(
                f"--validation_labels={path} gives {file} the number {number},"
                f" which is the class {classes[number]}, but ImageNet's label"
                f" is {synset}; leave the flag out for ImageNet's own labels."
            )
    return list(numbers)


def _official_synsets(files: Sequence[str]) -> list[str] | None:
    """Synsets by ImageNet's own file names; None if one is named otherwise."""
    matches = [_OFFICIAL_NAME.fullmatch(file) for file in files]
    if not all(matches):
        return None
    # TensorFlow Datasets takes a quarter of a second to import.
    from hvd_imagenet import synsets

    known = synsets.validation_synsets()
    numbers = [int(match[1]) for match in matches]
    if not all(1 <= number <= len(known) for number in numbers):
        return None
    return [known[number - 1] for number in numbers]


def _by_file(path: str, files: Sequence[str]) -> list[str]:
    """The label of every image, as the file has it."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = [line.split() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--validation_labels={path} cannot be read"
            f" ({getattr(error, 'strerror', None) or 'it is no text'}); name a"
            " text file with a label per line."
        ) from error
    widths = {len(row) for row in rows}
    if len(widths) > 1 or not widths <= {1, 2}:
        raise ValueError(
            f"--validation_labels={path} has lines of {min(widths)} to"
            f" {max(widths)} words; write LABEL or NAME LABEL on all of them."
        )
    if len(rows) != len(files):
        raise ValueError(
            f"--validation_labels={path} has {len(rows)} labels for"
            f" {len(files)} images; complete one or the other."
        )
    if widths == {1}:
        return [label for (label,) in rows]
    labels = {os.path.basename(name): label for name, label in rows}
    for file in files:
        if file not in labels:
            raise ValueError(
                f"--validation_labels={path} has no label for {file}; add it."
            )
    return [labels[file] for file in files]
