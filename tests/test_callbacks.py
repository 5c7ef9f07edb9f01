"""The callbacks bring exactly the plan's values to the optimizer."""

import pathlib

import keras
import numpy as np
import pytest

from hvd_imagenet import (
    callbacks,
    flags,
    optimizers,
    plan,
    schedule,
    update_rule,
)
from hvd_imagenet.processes import Processes
from hvd_imagenet.rmsprop_warmup import RMSpropWarmup
from hvd_imagenet.world import World

_FLAGS = pathlib.Path(__file__).parent.parent / "flags"


@pytest.mark.parametrize(
    "recipe", ["goyal2017", "akiba2017", "mlperf_lars_32k"]
)
@pytest.mark.parametrize("first_step", [0, 100])
def test_the_rates_are_the_plans(recipe, first_step):
    config = flags.read(str(_FLAGS / f"{recipe}.flags"))
    # 12.5 steps per epoch, to be done sooner.
    images = 25 * config.optimization.global_batch_size // 2
    made = plan.make_plan(
        config, world_size=2, train_images=images, validation_images=1
    )
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(update_rule.make_optimizer(config), "mse")
    calls = keras.callbacks.CallbackList(
        update_rule.step_callbacks(config, made, first_step),
        model=model,
    )
    calls.on_train_begin()
    for step in range(first_step, made.total_steps):
        calls.on_train_batch_begin(step)
        assert float(model.optimizer.learning_rate) == pytest.approx(
            made.learning_rate(step), rel=1e-6, abs=1e-9
        )
        calls.on_train_batch_end(step)


class _Rates(keras.callbacks.Callback):
    """Notes the rate that every step is done with."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


def _model(*layers):
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    return model


def _fit(model, *calls):
    return model.fit(
        np.ones([8, 1]),
        np.ones([8, 1]),
        batch_size=2,
        epochs=2,
        verbose=0,
        callbacks=list(calls),
    )


def test_rates_are_scaled_warmed_up_and_lowered_under_fit():
    noted = _Rates()
    _fit(
        _model(keras.Input([1])),
        callbacks.LinearScaling(
            0.01, 8, 16, schedule.Steps(boundaries=(6,), factor=0.1)
        ),
        callbacks.Warmup(schedule.Warmup(start=0.01, target=0.02, steps=4)),
        noted,
    )
    np.testing.assert_allclose(
        noted.rates,
        [0.01, 0.0125, 0.015, 0.0175, 0.02, 0.02, 0.002, 0.002],
        rtol=1e-6,
    )


class _OfTwo(Processes):
    """A rank of two, of which the first has other facts and metrics."""

    def __init__(self, facts):
        super().__init__(World(rank=1, size=2, local_rank=1, local_size=2))
        self._facts = facts

    def broadcast_object(self, value, root=0):
        return self._facts

    def sum(self, values):
        return values + np.arange(len(values))


def test_a_model_without_weights_cannot_be_broadcast():
    with pytest.raises(ValueError, match=r"no weights yet.*keras\.Input"):
        _fit(_model(), callbacks.BroadcastState(Processes()))


def test_another_number_of_steps_is_named():
    # The first would wait for this rank's last steps, or this one for its.
    given = callbacks.BroadcastState(_OfTwo({"epochs": 2, "steps": 5}))
    with pytest.raises(
        ValueError, match=r"steps is 4 on rank 1 .* 5 on rank 0"
    ):
        _fit(_model(keras.Input([1])), given)


def test_xla_is_off_where_there_is_an_exchange():
    model = _model(keras.Input([1]))
    for processes, compiled in (
        (Processes(), True),
        (_OfTwo({"epochs": 2, "steps": 4}), False),
    ):
        model.jit_compile = True
        callbacks.BroadcastState(processes).set_model(model)
        assert model.jit_compile == compiled


def test_averaging_behind_a_ranks_own_check_for_inf_is_refused():
    model = _model(keras.Input([1]))
    inner = optimizers.distributed(keras.optimizers.SGD(0.1), Processes())
    model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
    with pytest.raises(ValueError, match="distribute the LossScaleOptimizer"):
        _fit(model, callbacks.BroadcastState(Processes()))


class _OwnStep(keras.Sequential):
    """Sees to its gradients itself."""

    def train_step(self, data):
        return super().train_step(data)


def test_gradients_that_nobody_averages_are_refused():
    given, alone = (
        callbacks.AverageMetrics(processes)
        for processes in (_OfTwo({}), Processes())
    )
    model = _model(keras.Input([1]))
    with pytest.raises(ValueError, match=r"(?i)averages the gradients of sgd"):
        _fit(model, given)
    _fit(model, alone)
    model.compile(optimizers.distributed(model.optimizer, Processes()), "mse")
    given.set_model(model)
    model = _OwnStep([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    given.set_model(model)


def test_metrics_are_means_before_others_use_them():
    logs = {"loss": 4.0, "accuracy": np.float32(0.5)}
    # The other rank has 0 of the first in the alphabet, 1 of the second.
    callbacks.AverageMetrics(_OfTwo({})).on_epoch_end(0, logs)
    assert logs == {"loss": 2.5, "accuracy": 0.25}


class _Shares(keras.callbacks.Callback):
    """Notes the share of SGD that every step was done with."""

    def __init__(self, optimizer):
        super().__init__()
        self._optimizer = optimizer
        self.shares = []

    def on_train_batch_end(self, batch, logs=None):
        self.shares.append(float(self._optimizer.sgd_share))


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("first_step", [None, 20])
def test_the_transition_sets_the_share_of_every_step(wrap, first_step):
    def transition(step):
        return schedule.rmsprop_transition(step / 2)

    optimizer = RMSpropWarmup(0.01)
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(
        keras.optimizers.LossScaleOptimizer(optimizer) if wrap else optimizer,
        "mse",
        auto_scale_loss=False,
    )
    images = np.ones([8, 1], np.float32)
    noted = _Shares(optimizer)
    given = callbacks.RMSpropTransition(transition, first_step)
    # Twice 15 steps; the second time begins where the optimizer's count is.
    for _ in range(2):
        model.fit(
            images,
            images,
            batch_size=8,
            epochs=15,
            verbose=0,
            callbacks=[given, noted],
        )
    steps = [*range(30)] if first_step is None else [*range(20, 35)] * 2
    expected = [transition(step) for step in steps]
    np.testing.assert_allclose(noted.shares, expected, rtol=1e-6)


def test_the_transition_refuses_another_optimizer():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    given = callbacks.RMSpropTransition(lambda step: 1.0)
    given.set_model(model)
    with pytest.raises(ValueError, match="SGD has none"):
        given.on_train_begin()
