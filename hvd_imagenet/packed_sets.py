"""What a packed data set says of itself, in its manifest."""

import dataclasses
import json
from collections.abc import Mapping

NAME = "manifest.json"
# Raised when the meaning of what is written changes.
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedSet:
    """A packed data set.

    Attributes:
        label_offset: number that is stored for the first class.
        records: of every file, by its name.
    """

    label_offset: int
    records: Mapping[str, int]


def parse(manifest: str) -> PackedSet | None:
    """Reads the text of a manifest; None if it is one of something else."""
    try:
        content = json.loads(manifest)
        if content["format_version"] != FORMAT_VERSION:
            return None
        return PackedSet(
            label_offset=int(content["label_offset"]),
            records={
                shard["file"]: int(shard["records"])
                for split in content["splits"].values()
                for shard in split["shards"]
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def label_offset(packed: PackedSet | None, asked: int | None) -> int | None:
    """The number of the first class, if it is known without looking.

    Args:
        packed: what the data set says, if it is packed.
        asked: --label_offset.

    Raises:
        ValueError: the two differ.
    """
    if packed is None:
        return asked
    if asked is not None and asked != packed.label_offset:
        raise ValueError(
            f"--label_offset={asked}, but {NAME} of this packed data set says"
            f" {packed.label_offset}; leave the flag out."
        )
    return packed.label_offset
