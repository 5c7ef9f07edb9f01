"""Momentum SGD: the golden vectors, and 50 steps against plain NumPy.

Also what all optimizers of the package have in common.
"""

import inspect

import keras
import numpy as np
import pytest

from hvd_imagenet import optimizers
from hvd_imagenet.lamb import LAMB
from hvd_imagenet.lars import LARS
from hvd_imagenet.optimizers import MomentumSGD
from hvd_imagenet.processes import Processes
from hvd_imagenet.rmsprop_warmup import RMSpropWarmup

pytestmark = pytest.mark.core

_RATES = (0.1, 0.1, 0.2, 0.2, 0.02)


def _variable(value, name="kernel"):
    return keras.Variable(np.asarray(value, np.float32), name=name)


# Weights after each step with gradient 1, momentum 0.9 and rising and falling
# rates: what equation 9 gives. With the rate inside the buffer and no
# correction the third plain step would give 0.339.
@pytest.mark.parametrize(
    ("nesterov", "expected"),
    [
        (False, (0.9, 0.71, 0.168, -0.5198, -0.601702)),
        (True, (0.81, 0.539, -0.1488, -0.96782, -1.0615318)),
    ],
)
def test_golden_weights_while_the_rate_changes(nesterov, expected):
    variable = _variable(1.0)
    optimizer = MomentumSGD(momentum=0.9, nesterov=nesterov)
    weights = []
    for rate in _RATES:
        optimizer.learning_rate = rate
        optimizer.apply([np.float32(1.0)], [variable])
        weights.append(float(variable))
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_fifty_steps_equal_equation_9_and_8_in_numpy(nesterov):
    generator = np.random.default_rng(0)
    shape, decay, momentum = (3, 4), 0.01, 0.9
    start = generator.normal(size=shape)
    decayed = _variable(start)
    kept = {name: _variable(start, name) for name in ("gamma", "beta", "bias")}
    optimizer = MomentumSGD(
        momentum=momentum, nesterov=nesterov, weight_decay=decay
    )
    # float64 references, one with and one without decay.
    weights = [start.copy(), start.copy()]
    buffers = [np.zeros(shape), np.zeros(shape)]
    for step in range(50):
        gradient = generator.normal(size=shape)
        rate = 0.1 * (1 + np.sin(step))
        optimizer.learning_rate = rate
        optimizer.apply(
            [gradient.astype(np.float32)] * 4, [decayed, *kept.values()]
        )
        for number, strength in enumerate((decay, 0.0)):
            total = gradient + strength * weights[number]
            buffers[number] = momentum * buffers[number] + total
            update = (
                total + momentum * buffers[number]
                if nesterov
                else buffers[number]
            )
            weights[number] = weights[number] - rate * update
    np.testing.assert_allclose(decayed.numpy(), weights[0], rtol=1e-4)
    for variable in kept.values():
        np.testing.assert_allclose(variable.numpy(), weights[1], rtol=1e-4)
    # The exclusion must make a difference for this to show anything.
    assert np.max(np.abs(weights[0] - weights[1])) > 0.05


def test_it_survives_serialisation():
    optimizer = MomentumSGD(
        0.3, 0.8, nesterov=True, weight_decay=0.01, not_decayed=("bias",)
    )
    config = keras.optimizers.serialize(optimizer)
    copy = keras.optimizers.deserialize(config)
    assert isinstance(copy, MomentumSGD)
    assert copy.get_config() == optimizer.get_config()
    assert copy.coupled_weight_decay == 0.01
    # Keras must not apply a decoupled decay beside ours.
    assert copy.weight_decay is None


@pytest.mark.parametrize(
    "arguments", [{"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}]
)
def test_impossible_constants_are_refused(arguments):
    (value,) = arguments.values()
    with pytest.raises(ValueError, match=str(value)):
        MomentumSGD(**arguments)


# With no constant at its default.
_ALL = {
    "momentum_sgd": lambda: MomentumSGD(
        0.01, 0.8, nesterov=True, weight_decay=0.01, not_decayed=("gamma",)
    ),
    "lars_you2017": lambda: LARS(
        0.01, 0.8, 0.01, coefficient=0.02, skipped=("gamma",)
    ),
    "lars_mlperf": lambda: LARS(
        0.01, 0.8, 0.01, 0.02, "mlperf", 0.1, nesterov=True, skipped=("gamma",)
    ),
    "rmsprop_warmup": lambda: RMSpropWarmup(
        0.01, 0.8, 0.9, 1e-3, 1e-2, 0.01, not_decayed=("gamma",)
    ),
    "lamb": lambda: LAMB(0.01, 0.8, 0.9, 1e-3, 0.01, skipped=("gamma",)),
}


@pytest.fixture(params=_ALL)
def optimizer(request):
    return _ALL[request.param]()


def _model():
    """Float16 work on float32 weights, and all names that are special."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(8, dtype="mixed_float16"),
            keras.layers.BatchNormalization(dtype="mixed_float16"),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )


def _fit(model, optimizer):
    model.compile(optimizer, "mse", jit_compile=False)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(16, 4)).astype(np.float32)
    return model.fit(
        images, images[:, :1], batch_size=8, epochs=2, verbose=0, shuffle=False
    )


def test_all_survive_serialisation(optimizer):
    config = keras.optimizers.serialize(optimizer)
    assert config["registered_name"].startswith("hvd_imagenet>")
    copy = keras.optimizers.deserialize(config)
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()
    # No argument is forgotten in the configuration.
    arguments = inspect.signature(type(optimizer)).parameters.keys()
    assert arguments - {"kwargs"} <= config["config"].keys()
    assert copy.coupled_weight_decay == 0.01
    # Keras must not apply a decoupled decay beside ours.
    assert copy.weight_decay is None


def test_all_survive_a_saved_model(optimizer, tmp_path):
    model = _model()
    _fit(model, optimizer)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()
    assert len(copy.variables) == len(optimizer.variables)
    for ours, theirs in zip(copy.variables, optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert int(copy.iterations) == 4


def test_all_keep_float32_state_for_float16_networks(optimizer):
    model = _model()
    before = [v.numpy() for v in model.trainable_variables]
    _fit(model, keras.optimizers.LossScaleOptimizer(optimizer, 1024.0))
    assert int(optimizer.iterations) == 4
    for variable in optimizer.variables:
        assert variable.dtype in ("float32", "int64"), variable.path
        # Momentum and averages: none is left at zero, none is damaged.
        values = variable.numpy()
        assert np.all(np.isfinite(values)) and np.any(values), variable.path
    for start, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(variable.numpy() != start), variable.path


def test_all_work_the_same_under_loss_scaling(optimizer):
    plain = type(optimizer).from_config(optimizer.get_config())
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, 1024.0)
    start = np.array([1.0, -2.0])
    ours, theirs = _variable(start), _variable(start)
    generator = np.random.default_rng(0)
    for _ in range(3):
        gradient = generator.normal(size=2).astype(np.float32)
        plain.apply([gradient], [ours])
        scaled.apply([1024.0 * gradient], [theirs])
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert np.all(ours.numpy() != start)


def test_all_skip_an_infinite_gradient(optimizer):
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, 1024.0)
    variable = _variable([1.0, -2.0])
    scaled.apply([np.array([1.0, 2.0], np.float32)], [variable])
    before = [v.numpy() for v in (variable, *optimizer.variables)]
    scaled.apply([np.array([np.inf, 2.0], np.float32)], [variable])
    after = [v.numpy() for v in (variable, *optimizer.variables)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(scaled.dynamic_scale) == 512.0


# --- On many ranks. ---


class _Halving(Processes):
    """Two ranks, of which the other one's gradients are zero."""

    def average_gradients(self, gradients):
        return [gradient / 2.0 for gradient in gradients]


def test_all_can_be_distributed(optimizer):
    plain = type(optimizer).from_config(optimizer.get_config())
    given = optimizers.distributed(optimizer, _Halving())
    assert given is optimizer and optimizers.is_distributed(given)
    ours, theirs = _variable([1.0, -2.0]), _variable([1.0, -2.0])
    given.apply_gradients([(np.float32([1.0, 4.0]), ours)])
    plain.apply_gradients([(np.float32([0.5, 2.0]), theirs)])
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_saved_model_has_the_plain_optimizer_and_goes_on(tmp_path):
    model = _model()
    _fit(model, optimizers.distributed(MomentumSGD(0.01), _Halving()))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is MomentumSGD
    assert not optimizers.is_distributed(again.optimizer)
    assert int(again.optimizer.iterations) == 4
    optimizers.distributed(again.optimizer, _Halving())
    weights = []
    for one in (model, again):
        _fit(one, one.optimizer)
        weights.append(one.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_distributed_is_so_once():
    inner = optimizers.distributed(keras.optimizers.SGD(0.1), Processes())
    for again in (inner, keras.optimizers.LossScaleOptimizer(inner)):
        with pytest.raises(ValueError, match="averages gradients already"):
            optimizers.distributed(again, Processes())


def test_mixed_float16_finds_inf_in_the_means():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        given = optimizers.distributed(keras.optimizers.SGD(0.1), Processes())
        model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        model.compile(given, "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    # Where Keras would put its own around the averaging.
    assert model.optimizer is given
    assert isinstance(given, keras.optimizers.LossScaleOptimizer)
    optimizers.require_outermost(given)
