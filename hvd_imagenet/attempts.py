"""What is worth trying and never worth a training.

What fails is warned of once, counted, and tried again with the next.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from absl import logging


class Attempts:
    """Counts what of one kind could not be written."""

    def __init__(self, what: str):
        """Names what is counted.

        Args:
            what: in the plural.
        """
        self._what = what
        self._count = 0
        self._lost = 0
        self._first = ""

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Within it one is written; that this fails goes no further."""
        self._count += 1
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self._lost += 1
            if self._lost == 1:
                self._first = _reason(error)
                logging.warning(
                    "%s cannot be written (%s); training goes on without.",
                    self._what,
                    self._first,
                )

    @property
    def losses(self) -> str:
        """A sentence on what is lost; "" if nothing is."""
        if not self._lost:
            return ""
        return (
            f"{self._lost} of {self._count} {self._what} could not be written"
            f" ({self._first})"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Before that stands the operation that failed.
    return error.message.rpartition("}} ")[2].splitlines()[0]
