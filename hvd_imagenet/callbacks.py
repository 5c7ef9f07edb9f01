"""Keras callbacks for any Keras 3 model: state from rank 0, learning rate."""

import abc
from collections.abc import Callable, Sequence

import keras

from hvd_imagenet import schedule as schedule_lib
from hvd_imagenet.processes import Processes


class BroadcastState(keras.callbacks.Callback):
    """Gives all ranks rank 0's weights, statistics and optimizer state."""

    def __init__(
        self, processes: Processes, others: Sequence[keras.Variable] = ()
    ):
        """Says what to broadcast.

        Args:
            processes: the ranks.
            others: variables beside those of model and optimizer.
        """
        super().__init__()
        self._processes = processes
        self._others = others

    def on_train_begin(self, logs=None):
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self._processes.broadcast(
            [*self.model.variables, *optimizer.variables, *self._others]
        )


class _EveryStep(keras.callbacks.Callback, abc.ABC):
    """Sets something of a step before it, by a pure function of the step."""

    def __init__(self, first_step: int | None = None):
        """Says which step is the first.

        Args:
            first_step: global step at the beginning of training. Default: the
                optimizer's own count.
        """
        super().__init__()
        self._first_step = first_step
        self._step = 0

    @abc.abstractmethod
    def before_step(self, step: int) -> None:
        """Prepares the optimizer for a global step."""

    def on_train_begin(self, logs=None):
        self._step = self._first_step
        if self._step is None:
            self._step = int(self.model.optimizer.iterations)

    def on_train_batch_begin(self, batch, logs=None):
        self.before_step(self._step)

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1


class _LearningRate(_EveryStep):
    """Sets the learning rate."""

    @abc.abstractmethod
    def rate(self, step: int) -> float | None:
        """Learning rate of a global step, None to leave it as it is."""

    def before_step(self, step: int) -> None:
        rate = self.rate(step)
        if rate is not None:
            self.model.optimizer.learning_rate = rate


class LinearScaling(_LearningRate):
    """The linear scaling rule, with a decay over the steps.

    Goyal 2017, section 2.1: the rate grows with the images per step.
    """

    def __init__(
        self,
        base_learning_rate: float,
        base_batch_size: int,
        global_batch_size: int,
        decay: Callable[[int], float] = schedule_lib.Constant(),  # noqa: B008
        first_step: int | None = None,
    ):
        """Scales the rate.

        Args:
            base_learning_rate: rate for `base_batch_size` images per step.
            base_batch_size: in images.
            global_batch_size: images per step over all ranks.
            decay: multiplier of the scaled rate by global step.
            first_step: see the base class.
        """
        super().__init__(first_step)
        self._peak = schedule_lib.linear_scaling(
            base_learning_rate, base_batch_size, global_batch_size
        )
        self._decay = decay

    def rate(self, step: int) -> float | None:
        return self._peak * self._decay(step)


class Warmup(_LearningRate):
    """Another rate in the first steps; comes after `LinearScaling`.

    Goyal 2017, section 2.2.
    """

    def __init__(
        self, warmup: schedule_lib.Warmup, first_step: int | None = None
    ):
        super().__init__(first_step)
        self._warmup = warmup

    def rate(self, step: int) -> float | None:
        return self._warmup(step) if step < self._warmup.steps else None


class RMSpropTransition(_EveryStep):
    """Leads `rmsprop_warmup.RMSpropWarmup` from RMSprop to momentum SGD.

    Akiba 2017 (arXiv 1711.04325). With 156 steps per epoch:

        RMSpropTransition(lambda step: schedule.rmsprop_transition(step / 156))
    """

    def __init__(
        self,
        transition: Callable[[int], float],
        first_step: int | None = None,
    ):
        """Takes the transition.

        Args:
            transition: share of SGD by global step.
            first_step: see the base class.
        """
        super().__init__(first_step)
        self._transition = transition

    def on_train_begin(self, logs=None):
        if not hasattr(self._optimizer, "sgd_share"):
            raise ValueError(
                "RMSpropTransition sets the sgd_share of an RMSpropWarmup;"
                f" {type(self._optimizer).__name__} has none."
            )
        super().on_train_begin(logs)

    def before_step(self, step: int) -> None:
        self._optimizer.sgd_share = self._transition(step)

    @property
    def _optimizer(self) -> keras.optimizers.Optimizer:
        """The model's, without the LossScaleOptimizer around it."""
        optimizer = self.model.optimizer
        return getattr(optimizer, "inner_optimizer", optimizer)
