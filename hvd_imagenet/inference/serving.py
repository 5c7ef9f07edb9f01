"""A trained network as functions of TensorFlow alone, to serve."""

import keras
import tensorflow as tf

from hvd_imagenet.inference.class_names import ClassNames
from hvd_imagenet.inference.predictor import Predictor
from hvd_imagenet.preprocessing import Preprocessing

_TOP = 5


class Served(tf.Module):
    """From encoded images, or prepared ones, to what they show.

    The operations are those of the evaluation. All signatures answer with

        probabilities      [batch, classes] float32
        top_classes        [batch, 5] int32, numbers of the most probable
                           classes, falling; all classes of fewer than 5
        top_probabilities  [batch, 5] float32
        top_names          [batch, 5] string
    """

    def __init__(
        self,
        model: keras.Model,
        preprocessing: Preprocessing,
        names: ClassNames,
        *,
        flip: bool,
    ):
        """Takes what to serve.

        Args:
            model: from normalised images to logits.
            preprocessing: of encoded images.
            names: of the classes.
            flip: see `Predictor`.
        """
        super().__init__()
        self._predict = Predictor(model, flip=flip)
        self._preprocessing = preprocessing
        self._names = [names[number] for number in range(len(names))]
        # What is saved, found by TensorFlow among the attributes.
        self.weights = [variable.value for variable in model.variables]

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """By name, each with one input.

        serving_default  image_bytes: [batch] string, JPEG, PNG, BMP or GIF
                         files of any size
        images           images: [batch, side, side, 3] uint8, RGB, resized
                         and cropped already
        float_images     images: the same in float32, 0 to 255
        """
        side = self._preprocessing.image_size

        def of_images(dtype: tf.DType):
            spec = tf.TensorSpec([None, side, side, 3], dtype, "images")
            return tf.function(lambda images: self._answer(images), [spec])

        functions = {
            "serving_default": tf.function(
                self._answer_bytes,
                [tf.TensorSpec([None], tf.string, "image_bytes")],
            ),
            "images": of_images(tf.uint8),
            "float_images": of_images(tf.float32),
        }
        return {
            name: function.get_concrete_function()
            for name, function in functions.items()
        }

    def _answer_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        side = self._preprocessing.image_size
        # Where it is done in an evaluation, too.
        with tf.device("/CPU:0"):
            images = tf.map_fn(
                self._preprocessing.evaluation_image,
                image_bytes,
                fn_output_signature=tf.TensorSpec([side, side, 3], tf.uint8),
            )
        return self._answer(images)

    def _answer(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = self._predict(images)
        # By logits, as the evaluation: probabilities may be rounded to ties.
        top = tf.math.top_k(logits, min(_TOP, len(self._names))).indices
        probabilities = tf.nn.softmax(logits)
        return {
            "probabilities": probabilities,
            "top_classes": top,
            "top_probabilities": tf.gather(probabilities, top, batch_dims=1),
            "top_names": tf.gather(tf.constant(self._names), top),
        }
