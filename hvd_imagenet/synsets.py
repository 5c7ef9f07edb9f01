"""The classes of ImageNet-1k, as TensorFlow Datasets lists them.

A synset is a set of synonyms of WordNet, written n01440764; ImageNet has one
per class. Everyone's class number is the synset's place in the sorted list of
the 1,000, but for the numbers in the files of the ILSVRC 2012 development kit.
"""

import tensorflow_datasets as tfds

_FOLDER = "datasets/imagenet2012"


def sorted_synsets() -> list[str]:
    """The 1,000 synsets; the place is the class number, from 0."""
    return _lines("labels.txt")


def validation_synsets() -> list[str]:
    """Those of ILSVRC2012_val_00000001.JPEG and the 49,999 that follow."""
    return _lines("validation_labels.txt")


def _lines(name: str) -> list[str]:
    return tfds.core.tfds_path(_FOLDER, name).read_text().split()
