"""LAMB: golden vectors, and 50 steps against plain NumPy."""

import keras
import numpy as np
import pytest

from hvd_imagenet.lamb import LAMB


def _variable(value, name="kernel", dtype="float32"):
    return keras.Variable(np.asarray(value, dtype), dtype=dtype, name=name)


def _step(optimizer, weights, gradient, name="kernel"):
    """Weights after one step."""
    variable = _variable(weights, name)
    optimizer.apply([np.asarray(gradient, np.float32)], [variable])
    return variable.numpy()


# By hand: after the first step r = (1, -1) whatever the size of the gradient.
# Kernel: u = r + 0.5 * w = (2.5, 1), |w| / |u| = 5 / sqrt(7.25). Skipped: u = r
# and no ratio.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kernel", (2.53576165, 3.81430466)),
        ("bias", (2.9, 4.1)),
        ("beta", (2.9, 4.1)),
        ("gamma", (2.9, 4.1)),
    ],
)
def test_golden_first_step(name, expected):
    optimizer = LAMB(0.1, weight_decay=0.5, epsilon=1e-12)
    weights = _step(optimizer, [3.0, 4.0], [1e-3, -20.0], name)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_fifty_steps_equal_algorithm_2_in_numpy():
    generator = np.random.default_rng(0)
    decay, beta_1, beta_2, epsilon = 0.05, 0.9, 0.99, 1e-3
    names = ("kernel", "zeros", "gamma", "beta", "bias")
    shape = (3, 4)
    starts = {name: generator.normal(size=shape) for name in names}
    starts["zeros"][:] = 0.0
    variables = [_variable(starts[name], name) for name in names]
    optimizer = LAMB(
        beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, weight_decay=decay
    )
    weights = [starts[name].copy() for name in names]
    first = [np.zeros(shape) for _ in names]
    second = [np.zeros(shape) for _ in names]
    for t in range(1, 51):
        rate = 0.01 * (1 + np.sin(t))
        gradients = generator.normal(size=(len(names), *shape))
        if t % 7 == 3:
            gradients[:] = 0.0
        optimizer.learning_rate = rate
        optimizer.apply(list(gradients.astype(np.float32)), variables)
        for number, name in enumerate(names):
            g, w = gradients[number], weights[number]
            first[number] = beta_1 * first[number] + (1 - beta_1) * g
            second[number] = beta_2 * second[number] + (1 - beta_2) * g**2
            r = first[number] / (1 - beta_1**t)
            r = r / (np.sqrt(second[number] / (1 - beta_2**t)) + epsilon)
            ratio = 1.0
            if name in ("kernel", "zeros"):
                r = r + decay * w
                if np.any(w):
                    ratio = np.sqrt(np.sum(w**2)) / np.sqrt(np.sum(r**2))
            weights[number] = w - rate * ratio * r
    for variable, expected in zip(variables, weights, strict=True):
        np.testing.assert_allclose(
            variable.numpy(),
            expected,
            rtol=1e-4,
            atol=1e-5,
            err_msg=variable.name,
        )


def test_no_gradient_and_no_decay_move_nothing():
    weights = _step(LAMB(0.1), [3.0, 4.0], [0.0, 0.0])
    np.testing.assert_array_equal(weights, [3.0, 4.0])


def test_without_a_gradient_decay_takes_the_rate_of_the_weights():
    # u = decay * w, so |w| / |u| * u = w.
    weights = _step(LAMB(0.1, weight_decay=0.02), [3.0, 4.0], [0.0, 0.0])
    np.testing.assert_allclose(weights, [2.7, 3.6], rtol=1e-6)


def test_what_begins_with_zeros_moves_as_in_adam():
    # To float32's precision: 1 - beta_2 must not be taken from a float32.
    optimizer = LAMB(0.1, weight_decay=0.5, epsilon=1e-12)
    weights = _step(optimizer, [0.0, 0.0], [1.0, -1.0])
    np.testing.assert_allclose(weights, [-0.1, 0.1], rtol=1e-6)


def test_without_decay_it_is_kerass():
    generator = np.random.default_rng(0)
    start = generator.normal(size=(3, 4))
    ours, theirs = _variable(start), _variable(start)
    optimizers = (
        LAMB(0.01, skipped=()),
        keras.optimizers.Lamb(0.01, epsilon=1e-6),
    )
    for _ in range(10):
        gradient = generator.normal(size=(3, 4)).astype(np.float32)
        for optimizer, variable in zip(optimizers, (ours, theirs), strict=True):
            optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4)


def test_with_decay_it_is_not_kerass():
    # The reason for ours: drop it when Keras's takes decay into the ratio.
    optimizer = keras.optimizers.Lamb(0.1, weight_decay=0.02)
    theirs = _step(optimizer, [3.0, 4.0], [0.0, 0.0])
    np.testing.assert_allclose(theirs, [2.994, 3.992], rtol=1e-6)


def test_norms_are_float32_for_float16_variables():
    # 1000 * 100^2 is beyond float16. The step is 0.01 * w, up to its rounding.
    variable = _variable(np.full(1000, 100.0), dtype="float16")
    LAMB(0.01, epsilon=1e-3).apply([np.full(1000, 10.0)], [variable])
    np.testing.assert_allclose(variable.numpy(), 99.0, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta_1": 1.0}, "beta_1=1.0"),
        ({"beta_2": -0.1}, "beta_2=-0.1"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ],
)
def test_impossible_constants_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LAMB(**arguments)
