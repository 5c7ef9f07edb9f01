"""The compiled batch normalization for training, where there is one."""

from typing import Any, NamedTuple

import tensorflow as tf

from hvd_imagenet.kernels import loading

_NAME = "HvdImagenetBatchNorm"
_DTYPES = ("float32", "bfloat16")


class Normalized(NamedTuple):
    """What comes of a batch.

    Attributes:
        outputs: as many as were asked for, each [batch, ..., channels] of the
            dtype of the images, and all the same.
        mean: [channels] float32, of the batch.
        variance: [channels] float32, of the batch, unbiased.
    """

    outputs: list[tf.Tensor]
    mean: tf.Tensor
    variance: tf.Tensor


def normalize(
    images: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    *,
    epsilon: float,
    shortcut: tf.Tensor | None = None,
    relu: bool = False,
    copies: int = 1,
) -> Normalized:
    """Normalises by the statistics of the batch, adds, and rectifies.

    Ioffe and Szegedy 2015 (arXiv 1502.03167), algorithm 1. What is between the
    three is in 32 bits. Differentiable once, but not by mean and variance.

    Args:
        images: [batch, ..., channels], float32 or bfloat16.
        gamma: [channels] float32.
        beta: [channels] float32.
        epsilon: added to the variance.
        shortcut: added before the rectifier; shape and dtype of the images.
        relu: whether to rectify.
        copies: how often to give the outputs, at no cost: one for each of those
            who use them. Their gradients then are summed where they are used,
            and not by an operation of its own; so it is with a shortcut, a
            rectifier and two of them.

    Raises:
        MissingKernelError: see `load`.
    """
    made = load().hvd_imagenet_batch_norm(
        images=images,
        gamma=gamma,
        beta=beta,
        shortcut=[] if shortcut is None else [shortcut],
        relu=relu,
        epsilon=epsilon,
        copies=copies,
    )
    return Normalized(made.outputs, made.mean, made.variance)


def works_for(dtype: str) -> bool:
    """Whether the operation is there, and is one for images of this dtype.

    It is for CPUs; GPUs have cuDNN's.
    """
    return dtype in _DTYPES and loading.works_on_cpus(load)


@loading.once
def load() -> Any:
    """Loads the operations.

    Raises:
        MissingKernelError: they are not compiled, or cannot be loaded.
    """
    return loading.operations("batch_norm")


@tf.RegisterGradient(_NAME)
def _gradients(operation: tf.Operation, *by_outputs: tf.Tensor):
    images, gamma, beta, *shortcut = operation.inputs
    *outputs, mean, _, inverse = operation.outputs
    upstream = by_outputs[: len(outputs)]
    relu = operation.get_attr("relu")
    # With a shortcut the images alone do not tell what was rectified.
    kept = outputs[:1] if relu and shortcut else []
    if len(upstream) > (2 if kept else 1):
        upstream = [tf.add_n(upstream)]
    made = load().hvd_imagenet_batch_norm_grad(
        upstream=upstream,
        images=images,
        gamma=gamma,
        beta=beta,
        mean=mean,
        inverse=inverse,
        outputs=kept,
        relu=relu,
    )
    by_shortcut = made.by_shortcut if kept else [upstream[0] for _ in shortcut]
    return [made.by_images, made.by_gamma, made.by_beta, *by_shortcut]
