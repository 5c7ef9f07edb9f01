"""Files that are there whole or not at all, whatever ends the program."""

import contextlib
import os
import shutil
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
        raise _not_written(path, f"{doing} {temporary}", error) from error
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


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """A folder that gets its name once all of it is on the disk.

    After any error nothing is left. Only a process that is killed meanwhile
    leaves anything: a folder `path`.PID.tmp.

    Args:
        path: where nothing is yet.

    Raises:
        NotWrittenError: what could not be done, and why.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    doing = "making"
    try:
        os.makedirs(temporary)
        doing = "writing"
        yield temporary
        doing = "syncing"
        for folder, _, files in os.walk(temporary):
            for name in files:
                with open(os.path.join(folder, name), "rb") as file:
                    os.fsync(file.fileno())
        doing = "renaming"
        os.rename(temporary, path)
    except OSError as error:
        raise _not_written(path, f"{doing} {temporary}", error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_name(path)


def _not_written(path: str, doing: str, error: OSError) -> NotWrittenError:
    return NotWrittenError(
        f"{path} could not be written: {doing} failed"
        f" ({error.strerror or error})"
    )


def _sync_name(path: str) -> None:
    """Brings the new name to the disk too, where that can be asked for."""
    with contextlib.suppress(OSError):  # Some network file systems refuse.
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
