"""What ranks tell each other with the gradients of a step.

All ranks see the same sums, so that they stop together, at the same step, and
none waits for one that has gone. They tell two numbers, which ride along with
the gradients.
"""

import socket
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.processes import Processes


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is inf or nan; the same on all ranks."""


class Signals(NamedTuple):
    """Of a step.

    Attributes:
        asked: [] float32, ranks that were asked to stop.
        faulty: [] float32, ranks whose own loss or gradients are not finite.
        faults: [1 + 2 * variables] bool, of this rank: whether its loss, each
            weight before the step and each gradient has an inf or nan.
    """

    asked: tf.Tensor
    faulty: tf.Tensor
    faults: tf.Tensor


def of_rank(
    asks_to_stop: tf.Tensor,
    loss: tf.Tensor,
    weights: Sequence[tf.Tensor],
    gradients: Sequence[tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """What to tell the others, inside a `tf.function`.

    Only the loss and the first gradient are looked at in every step: what is
    not finite in the forward pass reaches the loss, what is not in the
    backward pass all layers below. All are, where these are not.

    Args:
        asks_to_stop: [] float32, 1 if this rank was asked to.
        loss: [] float32, of this rank.
        weights: trainable, from the images to the logits.
        gradients: of this rank, in the same order, before the exchange.

    Returns:
        ([2] float32: `asked` and `faulty` of this rank alone, `faults`)
    """
    is_faulty = _has_fault(loss) | _has_fault(gradients[0])
    tensors = [loss, *weights, *gradients]
    faults = tf.cond(
        is_faulty,
        lambda: tf.stack([_has_fault(tensor) for tensor in tensors]),
        lambda: tf.zeros([len(tensors)], tf.bool),
    )
    return tf.stack([asks_to_stop, tf.cast(is_faulty, tf.float32)]), faults


def _has_fault(tensor: tf.Tensor) -> tf.Tensor:
    return tf.logical_not(tf.reduce_all(tf.math.is_finite(tensor)))


def require_finite(
    signals: Signals,
    step: int,
    variables: Sequence[keras.Variable],
    processes: Processes,
) -> None:
    """Looks at the signals of a step. A collective operation.

    Args:
        signals: of the step.
        step: its number, from 1.
        variables: the weights.
        processes: the ranks.

    Raises:
        NonFiniteError: on all ranks alike, naming the first rank and variable.
    """
    if not float(signals.faulty):
        return
    fault = _describe(signals.faults.numpy(), [v.path for v in variables])
    here = (socket.gethostname(), fault)
    told = processes.gather_object(here)
    ranks = [rank for rank, (_, fault) in enumerate(told) if fault]
    host, fault = told[ranks[0]]
    others = ""
    if len(ranks) > 1:
        others = f" (and so on {len(ranks) - 1} other ranks)"
    raise NonFiniteError(
        f"in step {step} {fault} on rank {ranks[0]} ({host}){others}. If it is"
        " so on one rank only, suspect its host or data; else lower the"
        " learning rate or lengthen the warmup. The same command resumes from"
        " the last checkpoint, which is of before that step."
    )


def _describe(faults: np.ndarray, names: Sequence[str]) -> str | None:
    """The origin of a fault; None if there is none."""
    loss, weights, gradients = np.split(faults, [1, 1 + len(names)])
    if weights.any():
        # The first that the images meet: what comes after it follows.
        return f"the weight {names[int(np.argmax(weights))]} is inf or nan"
    if loss.any():
        return "the training loss is inf or nan"
    if gradients.any():
        # Backward the last one is the first.
        last = len(names) - 1 - int(np.argmax(gradients[::-1]))
        return f"the gradient of {names[last]} is inf or nan"
    return None
