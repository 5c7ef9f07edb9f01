"""Convolutions by Winograd's minimal filtering, where they are compiled."""

from typing import Any

import tensorflow as tf

from hvd_imagenet.kernels import loading

# Of images and of filters a multiple of it.
CHANNELS_TOGETHER = 32
_NAME = "HvdImagenetWinograd"


def convolve(images: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """A convolution with weights of 3 x 3, step 1, padding "same".

    Lavin and Gray 2015 (arXiv 1509.09308): F(4x4, 3x3), a quarter of the
    products. Differentiable once.

    Args:
        images: [batch, height, width, channels] float32.
        weights: [3, 3, channels, filters] float32; both multiples of
            CHANNELS_TOGETHER.

    Returns:
        [batch, height, width, filters] float32. Rounding errors are about ten
        times those of the definition.

    Raises:
        MissingKernelError: see `load`.
    """
    return load().hvd_imagenet_winograd(
        images=images, weights=weights, by_images=False
    )


def works_for(dtype: str) -> bool:
    """Whether the operation is there, and is one for images of this dtype.

    It is for CPUs; GPUs have cuDNN's.
    """
    return dtype == "float32" and loading.works_on_cpus(load)


@loading.once
def load() -> Any:
    """Loads the operations.

    Raises:
        MissingKernelError: they are not compiled, or cannot be loaded.
    """
    return loading.operations("winograd")


@tf.RegisterGradient(_NAME)
def _gradients(operation: tf.Operation, upstream: tf.Tensor):
    if operation.get_attr("by_images"):
        raise LookupError("Winograd's convolution is differentiable once")
    images, weights = operation.inputs
    by_images = load().hvd_imagenet_winograd(
        images=upstream, weights=weights, by_images=True
    )
    return by_images, load().hvd_imagenet_winograd_by_weights(
        images=images, upstream=upstream
    )
