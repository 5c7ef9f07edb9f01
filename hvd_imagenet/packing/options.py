"""What a data set is packed into: the flags of tools/pack."""

import dataclasses
from typing import Any

from hvd_imagenet.config import Config, DataConfig, ModelConfig, RunConfig
from hvd_imagenet.knobs import Checked, site

SPLITS = ("train", "validation")
_SHORTER_SIDE = 256
# As many as the well-known builder scripts make of ImageNet.
_SHARDS = {"train": 1024, "validation": 128}
# A shard of a small data set has at least so many images.
_SHARD_IMAGES_MIN = 64


def _as_in(group: type, name: str) -> Any:
    """The same knob as a training has."""
    (field,) = (f for f in dataclasses.fields(group) if f.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackOptions(Checked):
    """Where images come from, what becomes of them and where they go."""

    data_dir: str | None = _as_in(DataConfig, "data_dir")
    data_format: str = _as_in(DataConfig, "data_format")
    tfds_name: str = _as_in(DataConfig, "tfds_name")
    tfds_train_split: str = _as_in(DataConfig, "tfds_train_split")
    tfds_validation_split: str | None = _as_in(
        DataConfig, "tfds_validation_split"
    )
    validation_labels: str | None = _as_in(DataConfig, "validation_labels")
    label_offset: int | None = _as_in(DataConfig, "label_offset")
    num_classes: int = _as_in(ModelConfig, "num_classes")
    output_dir: str | None = site(
        None,
        "Directory to write to, made if it is not there; --data_dir of the"
        " training that follows.",
    )
    split: str = site(
        "both", "What to pack.", choices=("both", "train", "validation")
    )
    shorter_side: int | None = site(
        None,
        "Length that the shorter side of larger images is reduced to; smaller"
        " ones stay as they are. Default: 256, unless max_side is given.",
        unit="pixels",
        minimum=8,
        maximum=10_000,
    )
    max_side: int | None = site(
        None,
        "Length that the longer side of larger images is reduced to, instead of"
        " shorter_side.",
        unit="pixels",
        minimum=8,
        maximum=10_000,
    )
    encoding: str = site(
        "jpeg",
        "jpeg: for any reader of ImageNet TFRecords. raw: uint8 pixels, which"
        " nobody has to decode, for fast local disks; about eight times the"
        " bytes, and read by this project's training only.",
        choices=("jpeg", "raw"),
    )
    quality: int = site(
        90,
        "Quality of the JPEGs that are written.",
        minimum=1,
        maximum=100,
        when=("encoding", ("jpeg",)),
    )
    copy_small: bool = site(
        True,
        "Copy RGB JPEGs that are small enough to the byte, instead of encoding"
        " them again.",
        when=("encoding", ("jpeg",)),
    )
    train_shards: int | None = site(
        None,
        "Files that the train split becomes. Default: 1,024, or as many as give"
        " each 64 images.",
        unit="files",
        minimum=1,
        maximum=99_999,
    )
    validation_shards: int | None = site(
        None,
        "Files that the validation split becomes. Default: 128, or as many as"
        " give each 64 images.",
        unit="files",
        minimum=1,
        maximum=99_999,
    )
    seed: int = site(
        0,
        "Seed of the permutation that the training images are written in; the"
        " validation images keep their order.",
        minimum=0,
        maximum=2**32 - 1,
    )
    on_corrupt: str = site(
        "fail",
        "What to do about a record that cannot be read or decoded, or has an"
        " unknown label: stop and name it, or leave it out, name it and list it"
        " in the manifest.",
        choices=("fail", "skip"),
    )
    processes: int = site(
        0,
        "Processes that pack, a shard each at a time. 0: one per core that this"
        " one may use.",
        unit="processes",
        minimum=0,
        maximum=1024,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.shorter_side is not None and self.max_side is not None:
            raise ValueError(
                f"--shorter_side={self.shorter_side} and"
                f" --max_side={self.max_side} are both given; leave one away."
            )

    def config(self, workdir: str) -> Config:
        """What `splits.open_split` is to open."""
        data = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(DataConfig)
            if hasattr(self, field.name)
        }
        return Config(
            model=ModelConfig(num_classes=self.num_classes),
            data=DataConfig(**data),
            run=RunConfig(workdir=workdir),
        )

    def splits(self) -> tuple[str, ...]:
        """Splits to pack."""
        return SPLITS if self.split == "both" else (self.split,)

    def shards(self, split: str, images: int) -> int:
        """Number of files of a split."""
        asked = getattr(self, f"{split}_shards")
        if asked is None:
            most = max(1, images // _SHARD_IMAGES_MIN)
            return min(_SHARDS[split], most)
        if asked > images:
            raise ValueError(
                f"--{split}_shards={asked} is more than the {images} images of"
                " the split; give fewer."
            )
        return asked

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image is reduced to, or has already."""
        if self.max_side is not None:
            limit, side = self.max_side, max(width, height)
        else:
            limit = self.shorter_side or _SHORTER_SIDE
            side = min(width, height)
        if side <= limit:
            return width, height

        def reduced(length: int) -> int:
            return max(1, (2 * length * limit + side) // (2 * side))

        return reduced(width), reduced(height)

    def settings(self) -> dict[str, Any]:
        """What decides about the bytes that are written."""
        is_jpeg = self.encoding == "jpeg"
        size = (
            {"max_side": self.max_side}
            if self.max_side is not None
            else {"shorter_side": self.shorter_side or _SHORTER_SIDE}
        )
        return {
            **size,
            "encoding": self.encoding,
            "quality": self.quality if is_jpeg else None,
            "copy_small": self.copy_small if is_jpeg else None,
            "num_classes": self.num_classes,
            "seed": self.seed,
        }
