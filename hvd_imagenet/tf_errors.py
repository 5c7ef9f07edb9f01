"""What TensorFlow's errors say about a record, without the graph around it."""

import re

import tensorflow as tf

from hvd_imagenet.framing import CorruptRecordError

# TensorFlow repeats bytes that it cannot parse in its error's text, and fails
# to make text of them.
ERRORS = (tf.errors.OpError, UnicodeDecodeError)

# Of a function: behind the lines of the program, before the node.
_IN_GRAPH = re.compile(r"\n([^\n]+)\n\t \[\[\{\{node ")


def reason(error: tf.errors.OpError | UnicodeDecodeError) -> str:
    """The operation's own words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no tf.train.Example"
    in_graph = _IN_GRAPH.search(error.message)
    text = in_graph[1] if in_graph else error.message.replace("\n", " ")
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
