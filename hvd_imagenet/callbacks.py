"""Keras callbacks for any Keras 3 model: its state, metrics, learning rate."""

import abc
from collections.abc import Callable, Sequence

import keras
import numpy as np

from hvd_imagenet import optimizers
from hvd_imagenet import schedule as schedule_lib
from hvd_imagenet.processes import Processes


class BroadcastState(keras.callbacks.Callback):
    """Gives all ranks rank 0's weights, statistics and optimizer state.

    When training begins, it also sees that all ranks will take as many steps,
    as one that ends early leaves the others waiting.
    """

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

    def set_model(self, model):
        super().set_model(model)
        optimizers.require_outermost(model.optimizer)
        if self._processes.world.size > 1:
            # Keras asks for this after it has set the model. XLA, the default
            # on GPUs, cannot compile an exchange.
            model.jit_compile = False

    def on_train_begin(self, logs=None):
        self._processes.require_same(
            {name: self.params.get(name) for name in ("epochs", "steps")}
        )
        if not self.model.built:
            raise ValueError(
                f"{self.model.name} has no weights yet that rank 0 could give"
                " to the others; begin it with keras.Input, or call it on a"
                " batch of images before fit."
            )
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self._processes.broadcast(
            [*self.model.variables, *optimizer.variables, *self._others]
        )


class AverageMetrics(keras.callbacks.Callback):
    """Makes the metrics of an epoch means over ranks; comes before their users.

    `ReduceLROnPlateau`, `EarlyStopping`, `ModelCheckpoint` and the history then
    see the same on all ranks. Every rank counts the same: give them equally
    many images. Where Keras's own train step would leave the gradients of each
    rank to itself, there is no one model to measure, and training is refused.
    """

    def __init__(self, processes: Processes):
        """Says whose metrics.

        Args:
            processes: the ranks.
        """
        super().__init__()
        self._processes = processes

    def set_model(self, model):
        super().set_model(model)
        if (
            self._processes.world.size > 1
            and type(model).train_step is keras.Model.train_step
            and not optimizers.is_distributed(model.optimizer)
        ):
            raise ValueError(
                f"{model.name} would become another model on every rank, as"
                f" nothing averages the gradients of {model.optimizer.name};"
                " compile with optimizers.distributed(optimizer, processes)."
            )

    def on_epoch_end(self, epoch, logs=None):
        names = sorted(logs)
        own = np.array([float(logs[name]) for name in names], np.float64)
        means = self._processes.sum(own) / self._processes.world.size
        logs.update(zip(names, means.tolist(), strict=True))


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
            decay: multiplier of the scaled rate by global step, such as
                `schedule.Cosine`.
            first_step: global step at the beginning of training. Default: the
                optimizer's own count.
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
        """Takes the warmup.

        Args:
            warmup: rates of the first steps.
            first_step: see `LinearScaling`.
        """
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
            first_step: see `LinearScaling`.
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
