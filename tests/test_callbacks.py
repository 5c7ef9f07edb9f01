"""The callbacks bring exactly the plan's rates to the optimizer."""

import pathlib

import keras
import pytest

from hvd_imagenet import callbacks, flags, plan

_FLAGS = pathlib.Path(__file__).parent.parent / "flags"


@pytest.mark.parametrize("recipe", ["goyal2017", "quickstart"])
@pytest.mark.parametrize("first_step", [0, 100])
def test_the_rates_are_the_plans(recipe, first_step):
    config = flags.read(str(_FLAGS / f"{recipe}.flags"))
    images = {"goyal2017": 1_281_167, "quickstart": 1437}[recipe]
    made = plan.make_plan(
        config, world_size=2, train_images=images, validation_images=1
    )
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(123.0), "mse")
    calls = keras.callbacks.CallbackList(
        callbacks.learning_rate_callbacks(
            made,
            config.optimization.base_learning_rate,
            config.optimization.base_batch_size,
            first_step,
        ),
        model=model,
    )
    calls.on_train_begin()
    for step in range(first_step, made.total_steps):
        calls.on_train_batch_begin(step)
        assert float(model.optimizer.learning_rate) == pytest.approx(
            made.learning_rate(step), rel=1e-6, abs=1e-9
        )
        calls.on_train_batch_end(step)
