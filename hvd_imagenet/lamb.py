"""LAMB as You et al. 2020 write it."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from hvd_imagenet.optimizers import NOT_DECAYED


@keras.saving.register_keras_serializable("hvd_imagenet")
class LAMB(keras.optimizers.Optimizer):
    """Adam with a rate of its own for each variable.

    You et al. 2020, "Large Batch Optimization for Deep Learning: Training BERT
    in 76 minutes" (arXiv 1904.00962), Algorithm 2, with phi(x) = x. At step t,
    counted from 1:

        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g^2
        r = m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)
        u = r + weight_decay * w
        w = w - learning_rate * ||w|| / ||u|| * u

    with Euclidean norms in float32. Where ||w|| = 0 the ratio of norms is 1, or
    what begins with zeros would never move.

    Skipped variables have no weight decay and the ratio 1, which is Adam's
    rule, as in timm (which trains the recipes of Wightman et al. 2021, arXiv
    2110.00476) and TensorFlow Addons.

    keras.optimizers.Lamb does not fit: it takes weight decay outside the
    ratio, w = w - learning_rate * weight_decay * w before the step, so u and
    its norm lack it, and it can exclude variables from weight decay but not
    from the ratio.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        skipped: Sequence[str] = NOT_DECAYED,
        name: str = "lamb",
        **kwargs,
    ):
        """Sets the constants.

        Args:
            learning_rate: eta, also while it is not set by a callback.
            beta_1: of the mean gradient, at least 0 and less than 1.
            beta_2: of the mean square, at least 0 and less than 1.
            epsilon: more than 0.
            weight_decay: lambda, at least 0.
            skipped: names of variables without weight decay and ratio.
            name: name of the optimizer.
            **kwargs: what else keras.optimizers.Optimizer takes.
        """
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0.0 <= beta_1 < 1.0:
            raise ValueError(f"beta_1={beta_1} must be in [0, 1).")
        if not 0.0 <= beta_2 < 1.0:
            raise ValueError(f"beta_2={beta_2} must be in [0, 1).")
        if not 0.0 < epsilon < math.inf:
            raise ValueError(f"epsilon={epsilon} must be > 0.")
        if not 0.0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay={weight_decay} must not be < 0.")
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        # Not `weight_decay`: the base class would apply it outside the ratio.
        self.coupled_weight_decay = weight_decay
        self.skipped = tuple(skipped)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.means, self.mean_squares = self.add_optimizer_variables(
            variables, ["mean", "mean_square"]
        )
        self._is_skipped = [v.name in self.skipped for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        # Keras passes the tf.Variable of its own variable.
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        mean = self._average(self.means[index], self.beta_1, gradient)
        mean_square = self._average(
            self.mean_squares[index], self.beta_2, tf.square(gradient)
        )
        update = mean / (tf.sqrt(mean_square) + self.epsilon)
        if not self._is_skipped[index]:
            update += self.coupled_weight_decay * variable
            rate *= tf.cast(_ratio(variable, update), variable.dtype)
        variable.assign_sub(rate * update)

    def _average(self, average: keras.Variable, beta: float, value):
        """Updates a moving average; returns it without the bias of its zero."""
        updated = beta * average.value + (1.0 - beta) * value
        average.assign(updated)
        # In float64: 1 - 0.999^1 is wrong by 1.3e-5 of itself in float32.
        step = tf.cast(self.iterations, tf.float64) + 1.0
        weight = 1.0 - tf.pow(tf.constant(beta, tf.float64), step)
        return updated / tf.cast(weight, updated.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "weight_decay": self.coupled_weight_decay,
            "skipped": self.skipped,
        }


def _ratio(variable, update):
    """||variable|| / ||update||, 1 for a variable of zeros, [] float32."""
    weight_norm = tf.norm(tf.cast(variable, tf.float32))
    update_norm = tf.norm(tf.cast(update, tf.float32))
    # An update of zeros moves nothing, by whatever ratio.
    ratio = tf.math.divide_no_nan(weight_norm, update_norm)
    return tf.where(weight_norm > 0.0, ratio, 1.0)
