"""The callbacks bring exactly the plan's values to the optimizer."""

import pathlib

import keras
import numpy as np
import pytest

from hvd_imagenet import callbacks, flags, plan, schedule, update_rule
from hvd_imagenet.rmsprop_warmup import RMSpropWarmup

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
