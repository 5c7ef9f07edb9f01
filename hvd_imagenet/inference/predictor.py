"""From prepared images to logits, the same wherever a model is used."""

import keras
import tensorflow as tf

from hvd_imagenet import preprocessing
from hvd_imagenet.inference import crops


class Predictor:
    """What a model says of images, by one view of each or several."""

    def __init__(
        self,
        model: keras.Model,
        *,
        flip: bool = False,
        crop_size: int | None = None,
    ):
        """Takes what to ask.

        Args:
            model: from normalised images to logits.
            flip: take the mean of the logits of an image and of its mirror
                image.
            crop_size: side of the five crops of every image, in pixels; None
                for the image as it is. Of crops, and their mirror images, the
                probabilities are averaged (Krizhevsky et al. 2012, section
                4.1).
        """
        self._model = model
        self._flip = flip
        self._crop_size = crop_size

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """The logits, in training's normalisation.

        Args:
            images: [batch, side, side, 3], RGB from 0 to 255.

        Returns:
            [batch, classes] float32.
        """
        if self._crop_size is not None:
            return self._of_crops(crops.five(images, self._crop_size))
        images = preprocessing.normalise(images)
        logits = self._model(images, training=False)
        if self._flip:
            mirrored = self._model(tf.reverse(images, [2]), training=False)
            logits = (logits + mirrored) / 2.0
        return logits

    def _of_crops(self, views: tf.Tensor) -> tf.Tensor:
        """The logarithm of their mean probability, which is a logit too."""
        if self._flip:
            views = tf.concat([views, tf.reverse(views, [3])], axis=0)

        def log_probabilities(view: tf.Tensor) -> tf.Tensor:
            images = preprocessing.normalise(view)
            return tf.nn.log_softmax(self._model(images, training=False))

        # One after the other: ten views at once take ten times the memory.
        by_view = tf.map_fn(
            log_probabilities,
            views,
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )
        # Without underflow, unlike the mean of the probabilities themselves.
        total = tf.reduce_logsumexp(by_view, axis=0)
        return total - tf.math.log(float(views.shape[0]))
