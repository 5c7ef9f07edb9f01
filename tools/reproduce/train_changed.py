"""The trainer with one part made wrong on purpose, to measure what it does.

    python train_changed.py CHANGE [FLAGS OF hvd_imagenet.train]

The changes are mistakes that Goyal et al. 2017 (arXiv 1706.02677) warn of, for
which the trainer itself has no flag; they concern --optimizer=momentum.

    rate_in_buffer    the rate inside the momentum buffer, equation 10, without
                      momentum correction (Remark 2)
    batch_norm_decay  weight decay on gamma and beta as well (section 5.1)
    loss_times=K      K times the loss, but not K times the weight decay
                      (Remarks 1 and 3)
"""

import sys

import tensorflow as tf

from hvd_imagenet import optimizers, train
from hvd_imagenet.optimizers import MomentumSGD


class RateInBuffer(MomentumSGD):
    """v = momentum * v + learning_rate * g; w = w - v, and so Nesterov's."""

    def update_step(self, gradient, variable, learning_rate):
        rate = tf.cast(learning_rate, variable.dtype)
        decay = self._weight_decays[self._get_variable_index(variable)]
        # What the base class adds after it was scaled here.
        decayed = rate * (gradient + decay * variable) - decay * variable
        super().update_step(decayed, variable, tf.ones_like(rate))


class BatchNormDecay(MomentumSGD):
    """As Goyal's, but only the bias of the last layer is not decayed."""

    def __init__(self, **kwargs):
        super().__init__(not_decayed=("bias",), **kwargs)


def loss_times(factor: float) -> type[MomentumSGD]:
    """An optimizer whose gradients are those of a multiple of the loss."""

    class LossTimes(MomentumSGD):
        # The trainer scales the loss by it for its gradient alone, so that
        # what is logged is the loss itself. Nothing here unscales.
        def scale_loss(self, loss):
            return factor * loss

    return LossTimes


def main() -> None:
    change = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    name, _, value = change.partition("=")
    if name == "loss_times":
        changed = loss_times(float(value))
    elif change in ("rate_in_buffer", "batch_norm_decay"):
        changed = {
            "rate_in_buffer": RateInBuffer,
            "batch_norm_decay": BatchNormDecay,
        }[change]
    else:
        sys.exit(f"error: {change!r} is none of the changes:\n{__doc__}")
    optimizers.MomentumSGD = changed
    train.run()


if __name__ == "__main__":
    main()
