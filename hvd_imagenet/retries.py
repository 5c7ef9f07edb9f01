"""Reads that fail, tried again where that may help, for a bounded time."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from absl import logging

from hvd_imagenet.framing import CorruptRecordError

T = TypeVar("T")

# Seconds before a read is tried again: 5 tries, 15 s in all. A server that
# takes over for another one and a file system that is mounted anew are often
# back by then, and all ranks wait meanwhile.
_PAUSES = (1.0, 2.0, 4.0, 8.0)
# How long failures are believed at once after one that did not pass: else a run
# that leaves out what it cannot read would wait at every record of a lost disk.
_BELIEVED_SECONDS = 300.0
# What file systems say of themselves, not of the file: a network or a server
# that does not answer, a handle or a mount that is of before it came back.
_PASSING = {
    errno.EAGAIN,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETUNREACH,
    errno.ENOENT,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
_PASSING_WORDS = tuple(os.strerror(number) for number in _PASSING)


class Retries:
    """Tries reads of one source again, from any thread."""

    def __init__(
        self,
        errors: type[Exception] = OSError,
        words: Callable[[Exception], str] = lambda error: error.strerror,
        may_pass: Callable[[Exception], bool] = lambda error: (
            error.errno in _PASSING
        ),
    ):
        """Says what a failed read is.

        Args:
            errors: what it raises.
            words: why it failed, by such an error.
            may_pass: whether another try may help.
        """
        self._errors = errors
        self._words = words
        self._may_pass = may_pass
        self._lock = threading.Lock()
        self._paths: set[str] = set()  # That somebody tries again.
        self._believed_until = -float("inf")

    def read(
        self,
        attempt: Callable[[], T],
        path: str,
        where: Callable[[], str],
        reopen: Callable[[], None] = lambda: None,
    ) -> T:
        """The result of `attempt`.

        Args:
            attempt: reads.
            path: the file.
            where: names what is read.
            reopen: called before another try; may fail as `attempt`.

        Raises:
            CorruptRecordError: it failed for good, or too often.
        """
        try:
            return attempt()
        except self._errors as error:
            first = error
        if not self._may_pass(first) or time.monotonic() < self._believed_until:
            raise CorruptRecordError(
                f"{where()} cannot be read: {self._words(first)}."
            ) from first
        with self._event(path, first):
            return self._again(attempt, where, reopen, first)

    def _again(self, attempt, where, reopen, error):
        begin, tries = time.monotonic(), 1
        for pause in _PAUSES:
            time.sleep(pause)
            # What was open may do where opening fails: of a deleted file.
            with contextlib.suppress(self._errors):
                reopen()
            tries += 1
            try:
                return attempt()
            except self._errors as another:
                error = another
                if not self._may_pass(error):
                    break
        self._believed_until = time.monotonic() + _BELIEVED_SECONDS
        raise CorruptRecordError(
            f"{where()} cannot be read: {self._words(error)}, in {tries} tries"
            f" over {time.monotonic() - begin:.0f} s."
        ) from error

    @contextlib.contextmanager
    def _event(self, path: str, error: Exception):
        """Warns of a file, once however many of its records are waited for."""
        with self._lock:
            is_new = path not in self._paths
            self._paths.add(path)
        if is_new:
            logging.warning(
                "%s cannot be read: %s; trying again for %.0f s",
                path,
                self._words(error),
                sum(_PAUSES),
            )
        try:
            yield
        finally:
            with self._lock:
                self._paths.discard(path)


def names_passing(text: str) -> bool:
    """Whether a text has the words of an error that may pass."""
    return any(words in text for words in _PASSING_WORDS)
