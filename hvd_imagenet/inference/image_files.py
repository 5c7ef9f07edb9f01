"""The images that a command line names: files, folders, standard input."""

import os
import sys
from collections.abc import Iterable, Iterator

STDIN = "-"
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


class UnreadableError(Exception):
    """There is no image to read; the message says why, after its path."""


def find(paths: Iterable[str]) -> Iterator[str]:
    """Paths of image files; of folders, those within, in sorted order.

    Files that are named themselves may have any name. Hidden ones within
    folders are left out, and links to folders not followed.

    Yields:
        Paths, that of a folder without images among them.
    """
    for path in paths:
        if path == STDIN or not os.path.isdir(path):
            yield path
            continue
        is_empty = True
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(n for n in folders if not n.startswith("."))
            for name in sorted(names):
                is_image = name.lower().endswith(_SUFFIXES)
                if is_image and not name.startswith("."):
                    is_empty = False
                    yield os.path.join(folder, name)
        if is_empty:
            yield path


def read(path: str) -> bytes:
    """The content of a file, or of standard input for -.

    Raises:
        UnreadableError: it cannot be read, or is a folder.
    """
    if path == STDIN:
        return sys.stdin.buffer.read()
    if os.path.isdir(path):
        raise UnreadableError(
            f"there is no image in this folder ({', '.join(_SUFFIXES)})"
        )
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from error


def listed(path: str) -> list[str]:
    """The lines of a text file, or of standard input for -.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        # Names of files may be any bytes.
        if path == STDIN:
            content = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                content = file.read()
    except OSError as error:
        raise ValueError(
            f"--files_from={path} cannot be read ({error.strerror}); name a"
            " text file with a path per line."
        ) from error
    return [os.fsdecode(line) for line in content.splitlines() if line]
