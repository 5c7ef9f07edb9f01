"""LARS in its two published forms: You et al. 2017, and MLPerf's."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from hvd_imagenet.optimizers import NOT_DECAYED

# What each form skips unless told otherwise: Algorithm 1 makes no exception
# (Table 2 of the paper lists biases with ratios of their own), MLPerf leaves
# batch normalization and biases out.
_SKIPPED = {"you2017": (), "mlperf": NOT_DECAYED}


@keras.saving.register_keras_serializable("hvd_imagenet")
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling: each variable has a rate of its own.

    You, Gitman and Ginsburg 2017 (arXiv 1708.03888), Algorithm 1, with the
    gradient g of one variable w, and MLPerf's ResNet-50 (mlcommons/training,
    image_classification) share

        local = coefficient * ||w|| / (||g|| + weight_decay * ||w|| + epsilon)
        v = momentum * v + learning_rate * local * (g + weight_decay * w)
        w = w - v

    with Euclidean norms in float32. The rate is inside the buffer v, so a
    change of the rate reaches the weights late. The forms differ in:

                              "you2017"                   "mlperf"
        skipped variables     none                        gamma, beta, bias
        ||w|| = 0             local = 1                   local = 1
        ||g|| = 0             the formula                 local = 1
        epsilon               0                           settable, 0
        Nesterov              no                          settable, off

    Skipped variables have plain momentum: local = 1 and no weight decay.

    Where ||w|| = 0, Algorithm 1 as printed gives 0, and what begins with zeros
    (a bias, a beta, a zero gamma) would never move. local = 1 is what its
    authors' solver does (NVIDIA's Caffe); it is 1 / `coefficient` times the
    usual size, so begin with a small rate, or skip such variables.

    Nesterov's form is w = w - momentum * v - learning_rate * local *
    (g + weight_decay * w). MLPerf's code takes an epsilon of 0 for Keras's
    1e-7; here 0 is 0.
    """

    def __init__(
        self,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        coefficient: float = 0.001,
        form: str = "you2017",
        epsilon: float = 0.0,
        nesterov: bool = False,
        skipped: Sequence[str] | None = None,
        name: str = "lars",
        **kwargs,
    ):
        """Sets the constants.

        Args:
            learning_rate: gamma, the global rate, also while it is not set by
                a callback.
            momentum: m, at least 0 and less than 1.
            weight_decay: beta, at least 0.
            coefficient: eta, the trust coefficient, more than 0.
            form: "you2017" or "mlperf".
            epsilon: at least 0; "mlperf" only.
            nesterov: whether to look ahead; "mlperf" only.
            skipped: names of variables with plain momentum, the global rate
                and no weight decay. Default: those of the form.
            name: name of the optimizer.
            **kwargs: what else keras.optimizers.Optimizer takes.
        """
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum={momentum} must be in [0, 1).")
        if not 0.0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay={weight_decay} must not be < 0.")
        if not 0.0 < coefficient < math.inf:
            raise ValueError(f"coefficient={coefficient} must be > 0.")
        if form not in _SKIPPED:
            raise ValueError(f"form={form} must be one of {list(_SKIPPED)}.")
        if not 0.0 <= epsilon < math.inf:
            raise ValueError(f"epsilon={epsilon} must not be < 0.")
        if form == "you2017" and (epsilon or nesterov):
            raise ValueError(
                f"epsilon={epsilon} and nesterov={nesterov} are not in"
                ' Algorithm 1; leave them out or choose form="mlperf".'
            )
        self.momentum = momentum
        # Not `weight_decay`: the base class would apply it decoupled.
        self.coupled_weight_decay = weight_decay
        self.coefficient = coefficient
        self.form = form
        self.epsilon = epsilon
        self.nesterov = nesterov
        self.skipped = tuple(_SKIPPED[form] if skipped is None else skipped)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.buffers = self.add_optimizer_variables(variables, "momentum")
        self._is_skipped = [v.name in self.skipped for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        # Keras passes the tf.Variable of its own variable.
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        if not self._is_skipped[index]:
            local = self.trust_ratio(
                tf.norm(tf.cast(variable, tf.float32)),
                tf.norm(tf.cast(gradient, tf.float32)),
            )
            rate *= tf.cast(local, variable.dtype)
            gradient += self.coupled_weight_decay * variable
        step = rate * gradient
        buffer = self.buffers[index]
        update = self.momentum * buffer.value + step
        buffer.assign(update)
        if self.nesterov:
            update = self.momentum * update + step
        variable.assign_sub(update)

    def trust_ratio(self, weight_norm, gradient_norm):
        """The factor to the global rate, of a variable that is not skipped.

        Args:
            weight_norm: [...] float32, Euclidean norm of the variable.
            gradient_norm: [...] float32, that of its gradient, without weight
                decay.

        Returns:
            [...] float32.
        """
        local = tf.math.divide_no_nan(
            self.coefficient * weight_norm,
            gradient_norm
            + self.coupled_weight_decay * weight_norm
            + self.epsilon,
        )
        is_scaled = weight_norm > 0.0
        if self.form == "mlperf":
            is_scaled &= gradient_norm > 0.0
        return tf.where(is_scaled, local, 1.0)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.coupled_weight_decay,
            "coefficient": self.coefficient,
            "form": self.form,
            "epsilon": self.epsilon,
            "nesterov": self.nesterov,
            "skipped": self.skipped,
        }
