"""Batch normalization by a fused kernel: TensorFlow's, or on CPUs our own.

Keras 3's own layer is built of single operations: ResNet-50 v1.5 at batch 32
and 224 pixels takes 1.25 (float32) to 1.6 (bfloat16) times as long per step
with it as with TensorFlow's kernel (TensorFlow 2.18.1, two CPU threads).
"""

import contextlib
import contextvars
from typing import Any

import keras
import tensorflow as tf

from hvd_imagenet.kernels import batch_norm
from hvd_imagenet.kernels.batch_norm import Normalized

# (1 at the first micro-batch of a step, else 0; micro-batches per step), as a
# model is traced. The rule for a step of one batch unless someone says more.
_MICRO_BATCH: contextvars.ContextVar[tuple[Any, int]] = contextvars.ContextVar(
    "micro_batch", default=(1.0, 1)
)


@contextlib.contextmanager
def micro_batch(*, is_first: Any, count: int):
    """Within it, layers run one of the `count` micro-batches of a step.

    Args:
        is_first: scalar, 1.0 at the first micro-batch of the step, else 0.0.
        count: micro-batches in the step.
    """
    token = _MICRO_BATCH.set((is_first, count))
    try:
        yield
    finally:
        _MICRO_BATCH.reset(token)


@keras.saving.register_keras_serializable("hvd_imagenet")
class FusedBatchNormalization(keras.layers.Layer):
    """Batch normalization over the last axis of an image batch.

    With what follows it in a residual network, if that is asked for: the sum
    with a shortcut, and a rectifier. On CPUs, all of it is one operation in
    training.

    Ioffe and Szegedy 2015 (arXiv 1502.03167). In training it normalises by the
    mean and variance of the micro-batch, and keeps running statistics for
    inference:

        running = momentum * running + (1 - momentum) * mean over the step's
                                                        micro-batches

    one update per optimizer step, spread over its micro-batches (see
    `micro_batch`). The update is linear, so the average over ranks of the
    running statistics is what one rank would have found running all
    micro-batches. The variance kept is the unbiased one, as in the kernel and
    in PyTorch.

    Call arguments:
        inputs: [batch, height, width, channels], of the compute dtype.
        shortcut: added to what is normalised, of the same shape and dtype.
            Default: nothing.
        training: whether to normalise by the batch and update.

    Returns:
        As `inputs`; a list of the same, several times, if `copies` says so.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        gamma_initializer: Any = "ones",
        relu: bool = False,
        copies: int = 1,
        kernel: str = "auto",
        **kwargs,
    ):
        """Sets the constants.

        Args:
            momentum: share of the old value that a step keeps in the running
                statistics.
            epsilon: added to the variance.
            gamma_initializer: Keras initializer of gamma.
            relu: whether to rectify.
            copies: how often to give the outputs: one for each layer that takes
                them saves the sum of the gradients (see `batch_norm`).
            kernel: "auto", or "tensorflow" to train by TensorFlow's own in any
                case.
            **kwargs: what else keras.layers.Layer takes.
        """
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.relu = relu
        self.copies = copies
        self.kernel = kernel
        self._is_compiled = kernel == "auto" and batch_norm.works_for(
            self.compute_dtype
        )
        # XLA has no such operation; Keras looks at this.
        self.supports_jit = not self._is_compiled

    def build(self, inputs_shape, shortcut_shape=None):
        del shortcut_shape

        def add(name, initializer, trainable):
            # Never cast: the kernel takes 16-bit activations, but float32
            # parameters and statistics.
            return self.add_weight(
                name=name,
                shape=(inputs_shape[-1],),
                initializer=initializer,
                trainable=trainable,
                autocast=False,
            )

        self.gamma = add("gamma", self.gamma_initializer, trainable=True)
        self.beta = add("beta", "zeros", trainable=True)
        self.moving_mean = add("moving_mean", "zeros", trainable=False)
        self.moving_variance = add("moving_variance", "ones", trainable=False)

    def call(self, inputs, shortcut=None, training=False):
        if not training:
            made = self._by_tensorflow(
                inputs,
                shortcut,
                is_training=False,
                mean=self.moving_mean.value,
                variance=self.moving_variance.value,
            )
            return self._single(made.outputs)
        if self._is_compiled:
            made = batch_norm.normalize(
                inputs,
                self.gamma.value,
                self.beta.value,
                epsilon=self.epsilon,
                shortcut=shortcut,
                relu=self.relu,
                copies=self.copies,
            )
        else:
            made = self._by_tensorflow(inputs, shortcut, is_training=True)
        is_first, count = _MICRO_BATCH.get()
        keep = is_first * self.momentum + (1.0 - is_first)
        share = (1.0 - self.momentum) / count
        for moving, batch in (
            (self.moving_mean, made.mean),
            (self.moving_variance, made.variance),
        ):
            moving.assign(keep * moving.value + share * tf.stop_gradient(batch))
        return self._single(made.outputs)

    def _single(self, outputs):
        return outputs if self.copies > 1 else outputs[0]

    def _by_tensorflow(self, inputs, shortcut, **statistics) -> Normalized:
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            self.gamma.value,
            self.beta.value,
            epsilon=self.epsilon,
            **statistics,
        )
        if shortcut is not None:
            outputs += shortcut
        if self.relu:
            outputs = tf.nn.relu(outputs)
        return Normalized([outputs] * self.copies, mean, variance)

    def compute_output_shape(self, inputs_shape, shortcut_shape=None):
        del shortcut_shape
        return self._single([inputs_shape] * self.copies)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(
                self.gamma_initializer
            ),
            "relu": self.relu,
            "copies": self.copies,
            "kernel": self.kernel,
        }


def running_statistics(model: keras.Model) -> list[keras.Variable]:
    """Means and variances of all batch normalization layers of a model.

    Args:
        model: with Keras's own layers, or these.
    """
    return [
        variable
        for variable in model.non_trainable_variables
        if variable.name in ("moving_mean", "moving_variance")
    ]
