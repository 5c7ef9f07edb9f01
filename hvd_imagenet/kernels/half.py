"""Numbers to float16 and back with a factor, where that is compiled."""

from typing import Any

import tensorflow as tf

from hvd_imagenet.kernels import loading


def pack(numbers: tf.Tensor, factor: float) -> tf.Tensor:
    """Float32 numbers times a factor, rounded to float16.

    Args:
        numbers: float32, of any shape.
        factor: of float32.

    Returns:
        float16 of the same shape: the bits of TensorFlow's multiplication and
        cast.

    Raises:
        MissingKernelError: see `load`.
    """
    return load().hvd_imagenet_pack_half(numbers=numbers, factor=factor)


def unpack(packed: tf.Tensor, factor: float) -> tf.Tensor:
    """Float16 numbers in float32, times a factor.

    Args:
        packed: float16, of any shape.
        factor: of float32.

    Returns:
        float32 of the same shape: the bits of TensorFlow's cast and
        multiplication.

    Raises:
        MissingKernelError: see `load`.
    """
    return load().hvd_imagenet_unpack_half(packed=packed, factor=factor)


def works_for(numbers: tf.DType, packed: tf.DType) -> bool:
    """Whether the operations are there, and are ones for these types."""
    return (
        numbers == tf.float32
        and packed == tf.float16
        and loading.works_on_cpus(load)
    )


@loading.once
def load() -> Any:
    """Loads the operations.

    Raises:
        MissingKernelError: they are not compiled, or cannot be loaded.
    """
    return loading.operations("half")
