"""The files of a split by their names: train-00000-of-01024 and so on."""

import os
import re
from collections.abc import Iterable

from hvd_imagenet import imagenet

_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<number>\d+)-of-(?P<total>\d+)$")


def shards(data_dir: str, names: Iterable[str], split: str) -> list[str]:
    """Paths of a split's shards in their order.

    Args:
        data_dir: directory of the data.
        names: of the files in it.
        split: "train" or "validation".

    Returns:
        The paths; none if there is no such file.

    Raises:
        ValueError: a shard is missing, or there are two sets.
    """
    found = {}
    for name in sorted(names):
        match = _SHARD_NAME.match(name)
        if match and match["split"] in imagenet.SPLIT_NAMES[split]:
            found.setdefault(match["split"], []).append(match)
    if len(found) > 1:
        sets = " and ".join(f"{name}-*-of-*" for name in sorted(found))
        raise ValueError(
            f"{data_dir} has both {sets} files, which would count images"
            " twice; remove one of the two sets."
        )
    for name, matches in found.items():
        totals = {int(match["total"]) for match in matches}
        numbers = sorted(int(match["number"]) for match in matches)
        if numbers != list(range(min(totals))) or len(totals) > 1:
            raise ValueError(
                f"{data_dir} has {len(matches)} files {name}-*-of-*, whose"
                " names say there are"
                f" {' and '.join(map(str, sorted(totals)))}; copy the missing"
                " ones, or remove those of another set."
            )
        return [os.path.join(data_dir, match[0]) for match in matches]
    return []


def required_shards(
    data_dir: str, names: Iterable[str], split: str
) -> list[str]:
    """As `shards`, at least one.

    Raises:
        ValueError: also where there is none.
    """
    paths = shards(data_dir, names, split)
    if not paths:
        asked = imagenet.SPLIT_NAMES[split]
        raise ValueError(
            f"--data_dir={data_dir} has no files named"
            f" {' or '.join(f'{name}-*-of-*' for name in asked)}, the {split}"
            " split; name the directory that holds them."
        )
    return paths
