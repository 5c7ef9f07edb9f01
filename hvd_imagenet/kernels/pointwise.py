"""Convolutions of 1 x 1 in float32 by AMX, where they are compiled."""

import ctypes
from typing import Any

import tensorflow as tf

from hvd_imagenet.kernels import build, loading, processor
from hvd_imagenet.kernels.loading import MissingKernelError

# Of images and of filters a multiple of it.
CHANNELS_TOGETHER = 32
_NAME = "HvdImagenetPointwise"


def convolve(images: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """A convolution with weights of 1 x 1, step 1.

    Henry, Tang and Heinecke 2019 (arXiv 1904.06376): every float32 number is
    the sum of three bfloat16 ones, and six of the nine products of two such
    sums are taken; the others are below what float32 resolves. Differentiable
    once.

    Args:
        images: [batch, height, width, channels] float32.
        weights: [1, 1, channels, filters] float32; both multiples of
            CHANNELS_TOGETHER.

    Returns:
        [batch, height, width, filters] float32, with the rounding errors of
        sums in float32. Not for numbers below 2^-110, whose last parts are too
        small for bfloat16 and count as zero.

    Raises:
        MissingKernelError: see `load`.
    """
    return load().hvd_imagenet_pointwise(
        images=images, weights=weights, by_images=False
    )


def works_for(dtype: str) -> bool:
    """Whether the operation is there, and is one for images of this dtype."""
    return dtype == "float32" and loading.works_on_cpus(load)


@loading.once
def load() -> Any:
    """Loads the operations.

    Raises:
        MissingKernelError: they are not compiled, or cannot be loaded, or the
            processor has no AMX, or the system keeps it from this process.
    """
    if not is_for_this_processor():
        raise MissingKernelError("this processor has no AMX")
    operations = loading.operations("pointwise")
    library = ctypes.CDLL(str(build.library("pointwise")))
    library.HvdImagenetPermitAmx.restype = ctypes.c_bool
    if not library.HvdImagenetPermitAmx():
        raise MissingKernelError("the system does not let this process use AMX")
    return operations


def is_for_this_processor() -> bool:
    """Whether it has AMX for bfloat16."""
    return processor.has("amx_bf16") and processor.has("avx512bw")


@tf.RegisterGradient(_NAME)
def _gradients(operation: tf.Operation, upstream: tf.Tensor):
    if operation.get_attr("by_images"):
        raise LookupError("convolutions by AMX are differentiable once")
    images, weights = operation.inputs
    by_images = load().hvd_imagenet_pointwise(
        images=upstream, weights=weights, by_images=True
    )
    return by_images, load().hvd_imagenet_pointwise_by_weights(
        images=images, upstream=upstream
    )
