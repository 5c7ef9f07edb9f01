"""A few of the images that the model is trained on: a Keras callback."""

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet import mixing, pictures
from hvd_imagenet.batches import Batches
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.plan import Plan
from hvd_imagenet.runlog import NullRunLog

_COUNT = 8


class LogImages(keras.callbacks.Callback):
    """Shows images as the model sees them: cropped, augmented and mixed.

    Some of this rank's last micro-batch of the first step it does, and of the
    first step of every epoch and phase.
    """

    def __init__(self, plan: Plan, batches: Batches, run_log: NullRunLog):
        """Takes what to look at.

        Args:
            plan: steps and epochs.
            batches: what the model is trained on.
            run_log: where to write.
        """
        super().__init__()
        self._plan = plan
        self._batches = batches
        self._run_log = run_log
        self._is_due = False

    def on_epoch_begin(self, epoch, logs=None):
        self._is_due = True

    def on_train_batch_end(self, batch, logs=None):
        if self._is_due or batch == self._plan.phase(batch).first_step:
            self._is_due = False
            images, captions = shown(self._batches.latest)
            self._run_log.image(
                "train", "images", batch + 1, pictures.gallery(images, captions)
            )


def shown(batch: Batch) -> tuple[np.ndarray, list[str]]:
    """The first images of a micro-batch, and what they show.

    Args:
        batch: before it is mixed.

    Returns:
        ([images, side, side, 3] uint8, RGB; a line of text for each).
    """
    labels = batch.labels.numpy()
    if batch.mixing is None:
        return batch.images[:_COUNT].numpy(), [
            f"class {label}" for label in labels[:_COUNT]
        ]
    images, (partners, shares) = mixing.mix(
        tf.cast(batch.images, tf.float32),
        batch.labels,
        batch.weights,
        batch.mixing,
    )
    images = tf.saturate_cast(tf.round(images[:_COUNT]), tf.uint8)
    captions = [
        f"class {label} + {share:.0%} of {partner}"
        for label, partner, share in zip(
            labels, partners.numpy(), shares.numpy(), strict=True
        )
    ]
    return images.numpy(), captions[:_COUNT]
