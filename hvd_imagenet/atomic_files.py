"""Files that are there whole or not at all, whatever ends the program."""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO


class NotWrittenError(OSError):
    """A file could not be written; the message is a sentence for the user."""


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once all of it is on the disk.

    Before that, and after any error, what was at `path` is untouched. Only a
    process that is killed meanwhile leaves anything: a file `path`.PID.tmp.

    Raises:
        NotWrittenError: what could not be done, and why.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    doing = "opening"
    try:
        with open(temporary, "wb") as file:
            doing = "writing"
            yield file
            file.flush()
            doing = "syncing"
            os.fsync(file.fileno())
        doing = "renaming"
        os.replace(temporary, path)
    except OSError as error:
        raise NotWrittenError(
            f"{path} could not be written: {doing} {temporary} failed"
            f" ({error.strerror or error})"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # By now it has its name, or ours.
            os.unlink(temporary)
    _sync_name(path)


def write_text(path: str, text: str) -> None:
    """Writes a whole file, or leaves what was there.

    Raises:
        NotWrittenError: what could not be done, and why.
    """
    with replacing(path) as file:
        file.write(text.encode())


def _sync_name(path: str) -> None:
    """Brings the new name to the disk too, where that can be asked for."""
    with contextlib.suppress(OSError):  # Some network file systems refuse.
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
