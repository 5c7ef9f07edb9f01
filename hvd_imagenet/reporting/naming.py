"""What runs are called."""

import collections
import os
from collections.abc import Sequence


def names(directories: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """A name of its own for every run.

    Args:
        directories: of the runs.
        asked: names for all of them; None for the ends of their paths, as long
            as it takes to tell them apart.

    Raises:
        ValueError: no run, one that is named twice, or names that do not fit.
    """
    if not directories:
        raise ValueError(
            "No run is named, only reports of the benchmark; name the --workdir"
            " of a training too."
        )
    paths = [os.path.realpath(directory) for directory in directories]
    for path, count in collections.Counter(paths).items():
        if count > 1:
            raise ValueError(f"{path} is named {count} times; name it once.")
    if asked is None:
        return _ends(paths)
    if len(asked) != len(paths) or len(set(asked)) != len(asked):
        raise ValueError(
            f"--names={','.join(asked)} must be {len(paths)} different"
            f" name{'s' if len(paths) > 1 else ''}, one for each RUN."
        )
    return list(asked)


def _ends(paths: Sequence[str]) -> list[str]:
    parts = [printable(path).strip(os.sep).split(os.sep) for path in paths]
    most = max(map(len, parts))
    ends = []
    for own in parts:
        for length in range(1, most + 1):
            end = own[-length:]
            if sum(other[-length:] == end for other in parts) == 1:
                break
        ends.append("/".join(end) or "/")
    return ends


def printable(text: str) -> str:
    """A text for a line on a terminal, whatever bytes a path has."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
