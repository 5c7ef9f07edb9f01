"""Mixup and cutmix: every image of a micro-batch takes a part of another one.

Both are one operation: within a box, pixels become (1 - share) x own +
share x partner's. Mixup has a box of the whole image and the share 1 - lambda,
cutmix a part of the image and the share 1. The partner is the image at the
same place of the micro-batch in reverse order, as in timm.

There is one draw per micro-batch. It is a function of the seed and of the
first position of the micro-batch in the run's stream of images, which no rank
has a part in (see `plan.py`).
"""

import numpy as np
import tensorflow as tf

from hvd_imagenet.config import DataConfig
from hvd_imagenet.losses import Partners

DRAW_SIZE = 5


def is_on(data: DataConfig) -> bool:
    """Whether training images are mixed."""
    return data.mixup_alpha is not None or data.cutmix_alpha is not None


def draw(data: DataConfig, seed: int, position: int) -> np.ndarray:
    """Draws how a micro-batch is mixed.

    lambda is of Beta(alpha, alpha). Mixup (Zhang et al. 2018, arXiv 1710.09412,
    section 2) keeps lambda of every image. Cutmix (Yun et al. 2019, arXiv
    1905.04899, section 3.1) has a box with the image's aspect, the area
    1 - lambda and a uniformly random centre, cut off at the image's edges.
    With both, each is chosen with probability 0.5.

    Args:
        data: alphas, at least one of them.
        seed: seed of the run, 0 to 2^32 - 1.
        position: first position of the micro-batch in the stream of images.

    Returns:
        [5] float32, each 0 to 1: the partner's share within the box; and the
        box's top, bottom, left and right as shares of height and width.
    """
    # The legacy generator, whose streams NumPy keeps as they are (NEP 19), so
    # that a run can be resumed after an upgrade.
    random = np.random.RandomState([seed, position >> 32, position % 2**32])
    is_cutmix = data.mixup_alpha is None or (
        data.cutmix_alpha is not None and random.random_sample() < 0.5
    )
    alpha = data.cutmix_alpha if is_cutmix else data.mixup_alpha
    partners = 1.0 - random.beta(alpha, alpha)
    if not is_cutmix:
        return np.array([partners, 0.0, 1.0, 0.0, 1.0], np.float32)
    centre = random.random_sample(2)
    half = np.sqrt(partners) / 2.0
    top, left = np.maximum(centre - half, 0.0)
    bottom, right = np.minimum(centre + half, 1.0)
    return np.array([1.0, top, bottom, left, right], np.float32)


def mix(
    images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, drawn: tf.Tensor
) -> tuple[tf.Tensor, Partners]:
    """Mixes a micro-batch with itself in reverse order, inside a graph.

    Args:
        images: [batch, height, width, channels] float32.
        labels: [batch] int32.
        weights: [batch] float32; an image of weight 0 is not mixed into
            another, which stays as it is.
        drawn: [5] float32, as from `draw`. The box is rounded to whole pixels.

    Returns:
        (images, (labels, shares of the partners)). A share is that of the
        pixels: the area of the box, as it was cut off and rounded, times the
        share within it.
    """
    height, width = tf.unstack(tf.cast(tf.shape(images)[1:3], tf.float32))
    share, top, bottom, left, right = tf.unstack(drawn)
    top, bottom = tf.round(top * height), tf.round(bottom * height)
    left, right = tf.round(left * width), tf.round(right * width)
    rows, columns = tf.range(height), tf.range(width)
    is_row = (top <= rows) & (rows < bottom)
    is_column = (left <= columns) & (columns < right)
    box = share * tf.cast(is_row[:, tf.newaxis] & is_column, tf.float32)
    gives = tf.cast(tf.reverse(weights, [0]) > 0.0, tf.float32)
    part = gives[:, tf.newaxis, tf.newaxis, tf.newaxis] * box[..., tf.newaxis]
    mixed = (1.0 - part) * images + part * tf.reverse(images, [0])
    area = (bottom - top) * (right - left) / (height * width)
    return mixed, (tf.reverse(labels, [0]), gives * share * area)
