"""What TensorFlow Datasets (TFDS) says of the data sets that it has prepared.

    DATA/imagenet2012/5.1.0/dataset_info.json, features.json, ...
    DATA/imagenet2012/5.1.0/imagenet2012-train.tfrecord-00000-of-01024
    DATA/NAME/CONFIG/VERSION/...

DATA is `--data_dir`, what TFDS calls its data directory. TFDS itself reads what
it wrote about the data, which takes neither TensorFlow nor the code that made
the data set; nothing is ever downloaded or prepared here.
"""

import dataclasses
import glob
import os
import re
from collections.abc import Callable

import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from hvd_imagenet.config import Config
from hvd_imagenet.examples import ExampleFeatures

_IMAGENET = "imagenet2012"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSplit:
    """What TFDS wrote about a split, or about a part of one.

    Attributes:
        info: the data set.
        name: the split, as TFDS writes it.
        instructions: its ranges of files, in order.
        features: where image and label are in the records.
        folder: directory of the files.
    """

    info: tfds.core.DatasetInfo
    name: str
    instructions: list[tfds.core.utils.shard_utils.FileInstruction]
    features: ExampleFeatures
    folder: str

    @property
    def lengths(self) -> dict[str, int]:
        """Records of every file, which may have several of the ranges."""
        return {
            each.filename: each.examples_in_shard for each in self.instructions
        }

    @property
    def description(self) -> str:
        """For people."""
        return (
            f"TFDS {self.info.full_name}, split {self.name},"
            f" {self.info.file_format.value} files"
        )

    def require_files(self, is_there: Callable[[str], bool]) -> None:
        """Raises a ValueError if a file is missing."""
        missing = [path for path in self.lengths if not is_there(path)]
        if missing:
            raise ValueError(
                f"{missing[0]} is not there, nor are {len(missing) - 1} others"
                f" of the {len(self.lengths)} files of {self.info.full_name},"
                f" split {self.name}; copy them, or prepare the data set again."
            )


def find_split(config: Config, split: str) -> PreparedSplit:
    """Finds the "train" or "validation" split of `--tfds_name`.

    Raises:
        ValueError: it is not prepared in `--data_dir`, is no image
            classification, or of another number of classes.
    """
    if config.data.label_offset == 1:
        raise ValueError(
            "--label_offset=1 does not fit --data_format=tfds, whose labels"
            " count from 0; leave it out."
        )
    builder = _builder(config)
    info = builder.info
    image, label = _image_and_label(info)
    classes = info.features[label].num_classes
    if classes != config.model.num_classes:
        raise ValueError(
            f"{info.full_name} has {classes} classes, but"
            f" --num_classes={config.model.num_classes}; set"
            f" --num_classes={classes} or choose another --tfds_name."
        )
    name = _split_name(config, info, split)
    return PreparedSplit(
        info=info,
        name=name,
        instructions=_file_instructions(info, split, name),
        features=ExampleFeatures(image=image, label=label, label_offset=0),
        folder=os.fspath(builder.data_dir),
    )


def _builder(config: Config) -> tfds.core.DatasetBuilder:
    data_dir, name = config.data.data_dir, config.data.tfds_name
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        pass
    except Exception as error:  # Damaged files raise errors of any kind.
        words = " ".join(str(error).split()).partition(". ")[0].rstrip(".:")
        raise ValueError(
            f"--tfds_name={name} cannot be read in --data_dir={data_dir}:"
            f" {words}; write NAME, NAME:VERSION or NAME/CONFIG:VERSION, or"
            " prepare the data set again."
        ) from error
    plain = re.split("[/:]", name)[0]
    found = ", ".join(_prepared(data_dir, plain)) or "no other version of it"
    command = f"tfds build {name} --data_dir={data_dir}"
    if plain == _IMAGENET:
        command = f"tools/prepare_imagenet --manual_dir=TARS {data_dir}"
    raise ValueError(
        f"--tfds_name={name} is not prepared in --data_dir={data_dir} (which"
        f" has {found}); prepare it with `{command}`, or name the directory"
        " that has it."
    )


def _prepared(data_dir: str, name: str) -> list[str]:
    """Names of what is prepared of a data set, as `--tfds_name` takes them."""
    found = []
    for depth in ("*", os.path.join("*", "*")):
        pattern = os.path.join(glob.escape(data_dir), name, depth)
        for path in glob.glob(os.path.join(pattern, "features.json")):
            folder = os.path.relpath(os.path.dirname(path), data_dir)
            found.append(":".join(folder.rsplit(os.sep, 1)))
    return sorted(found)


def _image_and_label(info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Names of the two features, those of TFDS's supervised keys preferred."""
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    if isinstance(info.features, tfds.features.FeaturesDict):
        features = dict(info.features)
        keys = info.supervised_keys
        if keys is not None and all(
            isinstance(features.get(key), kind)
            for key, kind in zip(keys, kinds, strict=False)
        ):
            return keys[:2]
        found = [
            [name for name, each in features.items() if isinstance(each, kind)]
            for kind in kinds
        ]
        if [len(names) for names in found] == [1, 1]:
            return found[0][0], found[1][0]
    raise ValueError(
        f"{info.full_name} does not have one image and one class label per"
        " example; choose an image classification data set by --tfds_name."
    )


def _split_name(config: Config, info: tfds.core.DatasetInfo, split: str) -> str:
    if split == "train":
        return config.data.tfds_train_split
    if config.data.tfds_validation_split is not None:
        return config.data.tfds_validation_split
    for name in ("validation", "test"):
        if name in info.splits:
            return name
    raise ValueError(
        f"{info.full_name} has neither a split validation nor one named test;"
        " hold part of the images out, such as by"
        " --tfds_train_split=train[:95%] --tfds_validation_split=train[95%:]."
    )


def _file_instructions(
    info: tfds.core.DatasetInfo, split: str, name: str
) -> list[tfds.core.utils.shard_utils.FileInstruction]:
    try:
        instructions = info.splits[name].file_instructions
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        known = ", ".join(
            f"{each.name} ({each.num_examples} images)"
            for each in info.splits.values()
        )
        raise ValueError(
            f"--tfds_{split}_split={name} is no split of {info.full_name} or"
            f" part of one; it has {known}, and parts are written as"
            " train[:95%] or train[1000:]."
        ) from error
    if not instructions:
        raise ValueError(
            f"--tfds_{split}_split={name} of {info.full_name} has no images;"
            " choose a larger part."
        )
    return instructions
