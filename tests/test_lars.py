"""LARS: golden vectors of both forms, and 50 steps against plain NumPy."""

import keras
import numpy as np
import pytest

from hvd_imagenet.lars import LARS

_NAMES = ("kernel", "zeros", "gamma", "beta", "bias")


def _variable(value, name="kernel", dtype="float32"):
    return keras.Variable(np.asarray(value, dtype), dtype=dtype, name=name)


def _step(optimizer, weights, gradient, name="kernel"):
    """Weights after one step."""
    variable = _variable(weights, name)
    optimizer.apply([np.asarray(gradient, np.float32)], [variable])
    return variable.numpy()


@pytest.mark.parametrize("form", ["you2017", "mlperf"])
def test_golden_step_of_algorithm_1(form):
    # The gradient is parallel to w: the step is coefficient * w. The local rate
    # is 0.001 * 5 / (1 + 0.0005 * 5).
    optimizer = LARS(1.0, weight_decay=5e-4, coefficient=1e-3, form=form)
    weights = _step(optimizer, [3.0, 4.0], [0.6, 0.8])
    np.testing.assert_allclose(weights, [2.997, 3.996], rtol=1e-7)
    buffer = optimizer.buffers[0].numpy()
    np.testing.assert_allclose(buffer, [0.003, 0.004], rtol=1e-6)
    local = buffer / (np.array([0.6, 0.8]) + 5e-4 * np.array([3.0, 4.0]))
    np.testing.assert_allclose(local, 0.004987531172, rtol=1e-6)


# By hand: trust = 0.1 * 5 / (1 + 0.2 * 5 + 1) = 1 / 6, rate * trust = 0.1,
# g + wd * w = (1.2, 1.6).
@pytest.mark.parametrize(
    ("nesterov", "expected"), [(False, (2.88, 3.84)), (True, (2.82, 3.76))]
)
def test_golden_step_of_mlperf_with_epsilon(nesterov, expected):
    optimizer = LARS(
        0.6,
        momentum=0.5,
        weight_decay=0.2,
        coefficient=0.1,
        form="mlperf",
        epsilon=1.0,
        nesterov=nesterov,
    )
    weights = _step(optimizer, [3.0, 4.0], [0.6, 0.8])
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_a_change_of_rate_leaves_the_buffer_alone():
    # The rate is inside: after it falls to 0, the weights still move by m * v.
    optimizer = LARS(1.0, weight_decay=5e-4)
    variable = _variable([3.0, 4.0])
    gradient = np.array([0.6, 0.8], np.float32)
    optimizer.apply([gradient], [variable])
    optimizer.learning_rate = 0.0
    optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(
        variable.numpy(), [2.997 - 0.0027, 3.996 - 0.0036], rtol=1e-6
    )


class _Reference:
    """One variable in float64, from the formulas."""

    def __init__(self, weights, *, form, skipped, nesterov, epsilon):
        self.weights = np.array(weights, np.float64)
        self._velocity = np.zeros_like(self.weights)
        self._form = form
        self._skipped = skipped
        self._nesterov = nesterov
        self._epsilon = epsilon

    def step(self, gradient, rate, momentum, decay, coefficient):
        if self._skipped:
            scaled, total = rate, gradient
        else:
            of_weights = np.sqrt(np.sum(self.weights**2))
            of_gradient = np.sqrt(np.sum(gradient**2))
            if of_weights == 0 or (self._form == "mlperf" and of_gradient == 0):
                local = 1.0
            else:
                local = coefficient * of_weights
                local /= of_gradient + decay * of_weights + self._epsilon
            scaled, total = rate * local, gradient + decay * self.weights
        before = self._velocity
        self._velocity = momentum * before - scaled * total
        if self._nesterov:
            # w + m * v - step is the same as the leap (1 + m) * v - m * before.
            self.weights = self.weights + (
                (1 + momentum) * self._velocity - momentum * before
            )
        else:
            self.weights = self.weights + self._velocity


@pytest.mark.parametrize(
    ("form", "nesterov", "epsilon", "skipped", "skips"),
    [
        ("you2017", False, 0.0, None, ()),
        ("you2017", False, 0.0, ("bias",), ("bias",)),
        ("mlperf", False, 0.0, None, ("gamma", "beta", "bias")),
        ("mlperf", True, 0.1, None, ("gamma", "beta", "bias")),
        ("mlperf", False, 0.0, (), ()),
    ],
)
def test_fifty_steps_equal_the_formulas_in_numpy(
    form, nesterov, epsilon, skipped, skips
):
    generator = np.random.default_rng(0)
    decay, momentum, coefficient = 0.05, 0.9, 0.02
    starts = {name: generator.normal(size=(3, 4)) for name in _NAMES}
    starts["zeros"][:] = 0.0
    variables = [_variable(starts[name], name) for name in _NAMES]
    references = [
        _Reference(
            starts[name],
            form=form,
            skipped=name in skips,
            nesterov=nesterov,
            epsilon=epsilon,
        )
        for name in _NAMES
    ]
    optimizer = LARS(
        momentum=momentum,
        weight_decay=decay,
        coefficient=coefficient,
        form=form,
        epsilon=epsilon,
        nesterov=nesterov,
        skipped=skipped,
    )
    for step in range(50):
        rate = 0.1 * (1 + np.sin(step))
        gradients = generator.normal(size=(len(_NAMES), 3, 4))
        if step % 7 == 3:
            gradients[:] = 0.0
        optimizer.learning_rate = rate
        optimizer.apply(list(gradients.astype(np.float32)), variables)
        for reference, gradient in zip(references, gradients, strict=True):
            reference.step(gradient, rate, momentum, decay, coefficient)
    for variable, reference in zip(variables, references, strict=True):
        np.testing.assert_allclose(
            variable.numpy(),
            reference.weights,
            rtol=1e-4,
            atol=1e-5,
            err_msg=variable.name,
        )


@pytest.mark.parametrize("form", ["you2017", "mlperf"])
def test_what_begins_with_zeros_moves_at_the_global_rate(form):
    optimizer = LARS(0.5, weight_decay=0.1, form=form)
    weights = _step(optimizer, [0.0, 0.0], [1.0, -2.0])
    np.testing.assert_allclose(weights, [-0.5, 1.0], rtol=1e-6)


# Without a gradient Algorithm 1 leaves rate * coefficient * w, MLPerf's local
# rate of 1 leaves rate * decay * w.
@pytest.mark.parametrize(
    ("form", "factor"), [("you2017", 1 - 0.5 * 0.01), ("mlperf", 1 - 0.5 * 0.1)]
)
def test_decay_alone_where_the_gradient_is_zero(form, factor):
    optimizer = LARS(0.5, weight_decay=0.1, coefficient=0.01, form=form)
    weights = _step(optimizer, [3.0, 4.0], [0.0, 0.0])
    np.testing.assert_allclose(weights, [3 * factor, 4 * factor], rtol=1e-6)


@pytest.mark.parametrize("form", ["you2017", "mlperf"])
def test_nothing_moves_without_gradient_and_decay(form):
    weights = _step(LARS(0.5, form=form), [3.0, 4.0], [0.0, 0.0])
    np.testing.assert_array_equal(weights, [3.0, 4.0])


def test_norms_are_float32_for_float16_variables():
    # 1000 * 100^2 is beyond float16. The step is 0.01 * w, up to its rounding.
    variable = _variable(np.full(1000, 100.0), dtype="float16")
    LARS(1.0, coefficient=0.01).apply([np.full(1000, 100.0)], [variable])
    np.testing.assert_allclose(variable.numpy(), 99.0, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"weight_decay": float("nan")}, "weight_decay=nan"),
        ({"coefficient": 0.0}, "coefficient=0.0"),
        ({"epsilon": -1e-9, "form": "mlperf"}, "epsilon=-1e-09"),
        ({"form": "you"}, "form=you must be one of"),
        ({"epsilon": 1e-7}, "not in Algorithm 1"),
        ({"nesterov": True}, "not in Algorithm 1"),
    ],
)
def test_impossible_constants_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LARS(**arguments)
