"""The compiled mean over the processes of a host, where there is one."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvd_imagenet.kernels import loading

# Of the operation, which its errors tell.
NAME = "HvdImagenetSharedMean"


def mean(
    gradients: Sequence[tf.Tensor],
    numbers: tf.Tensor,
    *,
    dtype: tf.DType,
    descriptor: int,
    rank: int,
    ranks: int,
    timeout_seconds: float,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Means of gradients and sums of numbers, the same bits on all ranks.

    One exchange at a time: of two in one graph each rank might begin with
    another one. Gradients are rounded to `dtype`, summed in float32 in the
    order of the ranks, and their means are rounded to it again.

    Args:
        gradients: float32, of the same shapes on all ranks.
        numbers: float32, at most 16.
        dtype: float32, float16 or bfloat16, what is shared.
        descriptor: of this rank's own open file of shared memory, which begins
            as zeros, and of which it has locked the byte of its number.
        rank: number of this one, from 0.
        ranks: how many there are.
        timeout_seconds: for how long to wait for another rank.

    Returns:
        (means, sums), of the shapes of gradients and numbers. As operations
        they fail with AbortedError where another rank has gone, with
        DeadlineExceededError where one has not come, and with
        InvalidArgumentError where one has another number of gradients.

    Raises:
        MissingKernelError: see `load`.
    """
    means, sums = load().hvd_imagenet_shared_mean(
        gradients=gradients,
        numbers=numbers,
        format=dtype.name,
        descriptor=descriptor,
        rank=rank,
        ranks=ranks,
        timeout_seconds=timeout_seconds,
    )
    return list(means), sums


@loading.once
def load() -> Any:
    """Loads the operation.

    Raises:
        MissingKernelError: it is not compiled, or cannot be loaded.
    """
    return loading.operations("shared_mean")
