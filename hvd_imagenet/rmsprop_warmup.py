"""RMSprop warm-up: from RMSprop to momentum SGD, as Akiba et al. 2017."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from hvd_imagenet.optimizers import NOT_DECAYED


@keras.saving.register_keras_serializable("hvd_imagenet")
class RMSpropWarmup(keras.optimizers.Optimizer):
    """A mixture of RMSprop and momentum SGD, by a share that is set outside.

    Akiba, Suzuki and Fukuda 2017 (arXiv 1711.04325), "RMSprop Warm-up":

        g = gradient + weight_decay * w
        m = rms_decay * m + (1 - rms_decay) * g^2
        d = momentum * d - (a_sgd + a_rms / (sqrt(m) + epsilon)) * g
        w = w + learning_rate * d
        a_rms = (1 - a_sgd) * rms_learning_rate / learning_rate

    so that the RMSprop part moves w by (1 - a_sgd) * rms_learning_rate,
    whatever the learning rate is. At a learning rate of 0, where a_rms has no
    limit, it is 0. The learning rate is outside the buffer d: at a_sgd = 1 this
    is `optimizers.MomentumSGD` to the bit.

    a_sgd is the variable `sgd_share`, part of the optimizer's state. Nothing
    here knows epochs: `callbacks.RMSpropTransition` sets it before every step
    from `schedule.rmsprop_transition`. Until it is set it is 1, momentum SGD.
    """

    def __init__(
        self,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        rms_decay: float = 0.99,
        epsilon: float = 1e-8,
        rms_learning_rate: float = 3e-4,
        weight_decay: float = 0.0,
        not_decayed: Sequence[str] = NOT_DECAYED,
        name: str = "rmsprop_warmup",
        **kwargs,
    ):
        """Sets the constants; the defaults are the paper's.

        Args:
            learning_rate: eta, also while it is not set by a callback.
            momentum: mu1, at least 0 and less than 1.
            rms_decay: mu2, at least 0 and less than 1.
            epsilon: more than 0.
            rms_learning_rate: eta_RMSprop, at least 0.
            weight_decay: lambda, at least 0.
            not_decayed: names of variables without weight decay.
            name: name of the optimizer.
            **kwargs: what else keras.optimizers.Optimizer takes.
        """
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum={momentum} must be in [0, 1).")
        if not 0.0 <= rms_decay < 1.0:
            raise ValueError(f"rms_decay={rms_decay} must be in [0, 1).")
        if not 0.0 < epsilon < math.inf:
            raise ValueError(f"epsilon={epsilon} must be > 0.")
        if not 0.0 <= rms_learning_rate < math.inf:
            raise ValueError(
                f"rms_learning_rate={rms_learning_rate} must not be < 0."
            )
        if not 0.0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay={weight_decay} must not be < 0.")
        self.momentum = momentum
        self.rms_decay = rms_decay
        self.epsilon = epsilon
        self.rms_learning_rate = rms_learning_rate
        # Not `weight_decay`: the base class would apply it decoupled.
        self.coupled_weight_decay = weight_decay
        self.not_decayed = tuple(not_decayed)
        self._sgd_share = self.add_variable(
            shape=(),
            initializer="ones",
            dtype="float32",
            aggregation="only_first_replica",
            name="sgd_share",
        )

    @property
    def sgd_share(self) -> keras.Variable:
        """[] float32, a_sgd: 0 for RMSprop, 1 for momentum SGD.

        The transition as printed in the paper exceeds 1 for a while.
        """
        return self._sgd_share

    @sgd_share.setter
    def sgd_share(self, share: float):
        self._sgd_share.assign(share)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.buffers, self.mean_squares = self.add_optimizer_variables(
            variables, ["momentum", "mean_square"]
        )
        self._weight_decays = [
            0.0 if v.name in self.not_decayed else self.coupled_weight_decay
            for v in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        # Keras passes the tf.Variable of its own variable.
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        sgd_share = tf.cast(self._sgd_share.value, variable.dtype)
        rms_share = tf.math.divide_no_nan(
            (1.0 - sgd_share) * self.rms_learning_rate, rate
        )
        gradient = tf.cast(gradient, variable.dtype)
        if self._weight_decays[index]:
            gradient += self._weight_decays[index] * variable
        mean_square = self.mean_squares[index]
        mean = self.rms_decay * mean_square.value
        mean += (1.0 - self.rms_decay) * tf.square(gradient)
        mean_square.assign(mean)
        scale = sgd_share + rms_share / (tf.sqrt(mean) + self.epsilon)
        buffer = self.buffers[index]
        update = self.momentum * buffer.value - scale * gradient
        buffer.assign(update)
        variable.assign_add(rate * update)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "rms_decay": self.rms_decay,
            "epsilon": self.epsilon,
            "rms_learning_rate": self.rms_learning_rate,
            "weight_decay": self.coupled_weight_decay,
            "not_decayed": self.not_decayed,
        }
