"""Convolutions in float32 by AMX, where they are compiled."""

import ctypes
from typing import Any

import tensorflow as tf

from hvd_imagenet.kernels import build, loading, processor
from hvd_imagenet.kernels.loading import MissingKernelError

# Of images and of filters a multiple of it.
CHANNELS_TOGETHER = 32
# Or of images as few that a row of a window has so many numbers at most.
COLOURS_MAX = 32
_NAME = "HvdImagenetAmx"


def convolve(
    images: tf.Tensor, weights: tf.Tensor, *, step: int = 1, zeros: int = 0
) -> tf.Tensor:
    """A convolution.

    Henry, Tang and Heinecke 2019 (arXiv 1904.06376): every float32 number is
    the sum of three bfloat16 ones, and six of the nine products of two such
    sums are taken; the others are below what float32 resolves. Differentiable
    once.

    Args:
        images: [batch, height, width, channels] float32.
        weights: [side, side, channels, filters] float32, of an odd side. There
            are a multiple of CHANNELS_TOGETHER channels and filters; or,
            without zeros, at most as many channels times columns of weights.
        step: from window to window, 1 or 2.
        zeros: rows and columns of zeros on each side of an image; half of the
            side with a step of 1.

    Returns:
        [batch, rows, columns, filters] float32, with the rounding errors of
        sums in float32. Not for numbers below 2^-110, whose last parts are too
        small for bfloat16 and count as zero.

    Raises:
        MissingKernelError: see `load`.
    """
    return load().hvd_imagenet_amx(
        images=images, weights=weights, step=step, zeros=zeros
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
    operations = loading.operations("amx")
    library = ctypes.CDLL(str(build.library("amx")))
    library.HvdImagenetPermitAmx.restype = ctypes.c_bool
    if not library.HvdImagenetPermitAmx():
        raise MissingKernelError("the system does not let this process use AMX")
    return operations


def is_for_this_processor() -> bool:
    """Whether it has AMX for bfloat16."""
    return processor.has("amx_bf16") and processor.has("avx512bw")


@tf.RegisterGradient(_NAME)
def _gradients(operation: tf.Operation, upstream: tf.Tensor):
    images, weights = operation.inputs
    window = {name: operation.get_attr(name) for name in ("step", "zeros")}
    by_weights = load().hvd_imagenet_amx_by_weights(
        images=images, upstream=upstream, side=weights.shape[0], **window
    )
    if images.shape[3] % CHANNELS_TOGETHER:
        # Nobody wants that by colours, and no graph makes it then.
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=images.shape,
            filter=weights,
            out_backprop=upstream,
            strides=[1, window["step"], window["step"], 1],
            padding="VALID",
        ), by_weights
    by_images = load().hvd_imagenet_amx_by_images(
        upstream=upstream,
        weights=weights,
        height=images.shape[1],
        width=images.shape[2],
        **window,
    )
    return by_images, by_weights
