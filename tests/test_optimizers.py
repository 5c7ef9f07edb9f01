"""Momentum SGD: the golden vectors, and 50 steps against plain NumPy."""

import keras
import numpy as np
import pytest

from hvd_imagenet.optimizers import MomentumSGD

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
