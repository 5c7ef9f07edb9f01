"""What TensorFlow's errors say about a record, without the graph around it."""

import re

import tensorflow as tf

from hvd_imagenet.framing import CorruptRecordError

# TensorFlow repeats bytes that it cannot parse in its error's text, and fails
# to make text of them.
ERRORS = (tf.errors.OpError, UnicodeDecodeError)


def reason(error: tf.errors.OpError | UnicodeDecodeError) -> str:
    """The operation's own words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no tf.train.Example"
    text = error.message.replace("\n", " ")
    text = text.rpartition("}} ")[2] or text
    return text.partition(" [Op:")[0].strip().rstrip(".")


def passing(
    error: tf.errors.OpError | UnicodeDecodeError,
) -> CorruptRecordError | None:
    """The failed read in `error`, which did not fail again; None if no read."""
    said = re.search(
        r"CorruptRecordError: (.+)\n", getattr(error, "message", "")
    )
    if said is None:
        return None
    return CorruptRecordError(
        f"{said[1]} It can be read now; the same command resumes."
    )
