"""RMSprop warm-up: golden vectors, and 50 steps against plain NumPy."""

import keras
import numpy as np
import pytest

from hvd_imagenet import schedule
from hvd_imagenet.optimizers import MomentumSGD
from hvd_imagenet.rmsprop_warmup import RMSpropWarmup

# Share of SGD at epoch 0.
_AT_0 = 0.00915781944


def _variable(value, name="kernel"):
    return keras.Variable(np.asarray(value, np.float32), name=name)


def test_golden_weights_at_epoch_0():
    variable = _variable(1.0)
    optimizer = RMSpropWarmup(6.4)
    optimizer.sgd_share = _AT_0
    weights, buffers = [], []
    for gradient in (0.5, 0.25):
        optimizer.apply([np.float32(gradient)], [variable])
        weights.append(float(variable))
        buffers.append(float(optimizer.buffers[0]))
    np.testing.assert_allclose(
        buffers, [-0.00504336690, -0.00703703251], rtol=1e-6
    )
    np.testing.assert_allclose(
        weights, [0.967722451831, 0.922685443789], rtol=1e-6
    )


# Without memory, -d = a_sgd * g + a_rms * sign(g), up to epsilon: gradients of
# two sizes tell the two apart.
@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 4.644572721e-5), (5, 4.370307930e-5), (10, 2.34375e-5)],
)
def test_golden_share_of_rmsprop(epoch, expected):
    share = schedule.rmsprop_transition(epoch)
    optimizer = RMSpropWarmup(6.4, momentum=0.0, rms_decay=0.0)
    optimizer.sgd_share = share
    small, large = _variable(0.0), _variable(0.0)
    optimizer.apply([np.float32(1e-3), np.float32(2e-3)], [small, large])
    updates = [-float(buffer) for buffer in optimizer.buffers]
    assert 2 * updates[0] - updates[1] == pytest.approx(expected, rel=1e-4)


def test_the_part_of_rmsprop_does_not_depend_on_the_rate():
    moved = []
    for rate in (0.1, 6.4):
        variable = _variable(1.0)
        optimizer = RMSpropWarmup(rate)
        optimizer.sgd_share = 0.0
        optimizer.apply([np.float32(0.5)], [variable])
        moved.append(1.0 - float(variable))
    # 3e-4 * 0.5 / sqrt(0.01 * 0.25)
    np.testing.assert_allclose(moved, 3e-3, rtol=1e-4)


def test_until_the_share_is_set_it_is_momentum_sgd_to_the_bit():
    generator = np.random.default_rng(0)
    start = generator.normal(size=(3, 4))
    ours = [_variable(start), _variable(start, "bias")]
    theirs = [_variable(start), _variable(start, "bias")]
    optimizers = [
        RMSpropWarmup(weight_decay=0.01),
        MomentumSGD(weight_decay=0.01),
    ]
    for step in range(10):
        gradients = list(generator.normal(size=(2, 3, 4)).astype(np.float32))
        for optimizer, variables in zip(
            optimizers, (ours, theirs), strict=True
        ):
            optimizer.learning_rate = 0.1 * (1 + step % 3)
            optimizer.apply(gradients, variables)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.numpy(), their.numpy())
    assert np.max(np.abs(ours[0].numpy() - start)) > 0.1


@pytest.mark.parametrize("slope", ["continuous", "printed"])
def test_fifty_steps_equal_the_formulas_in_numpy(slope):
    generator = np.random.default_rng(0)
    shape, decay, mu1, mu2, eta_rms = (3, 4), 0.01, 0.8, 0.95, 2e-2
    names = ("kernel", "gamma", "beta", "bias")
    start = generator.normal(size=shape)
    variables = [_variable(start, name) for name in names]
    optimizer = RMSpropWarmup(
        momentum=mu1,
        rms_decay=mu2,
        epsilon=1e-3,
        rms_learning_rate=eta_rms,
        weight_decay=decay,
    )
    thetas = [start.copy() for _ in names]
    deltas = [np.zeros(shape) for _ in names]
    means = [np.zeros(shape) for _ in names]
    for step in range(50):
        gradient = generator.normal(size=shape)
        eta = 0.1 * (1 + np.sin(step))
        # Epochs 0 to 14.7: all three branches.
        share = schedule.rmsprop_transition(0.3 * step, slope=slope)
        optimizer.learning_rate = eta
        optimizer.sgd_share = share
        optimizer.apply([gradient.astype(np.float32)] * 4, variables)
        alpha_rms = (1 - share) * eta_rms / eta
        for number, name in enumerate(names):
            g = gradient + (decay * thetas[number] if name == "kernel" else 0)
            means[number] = mu2 * means[number] + (1 - mu2) * g**2
            alpha = share + alpha_rms / (np.sqrt(means[number]) + 1e-3)
            deltas[number] = mu1 * deltas[number] - alpha * g
            thetas[number] = thetas[number] + eta * deltas[number]
    for variable, theta in zip(variables, thetas, strict=True):
        np.testing.assert_allclose(
            variable.numpy(), theta, rtol=1e-4, atol=1e-5
        )
    # The exclusion must make a difference for this to show anything.
    assert np.max(np.abs(thetas[0] - thetas[1])) > 0.01


def test_a_rate_of_0_does_nothing_but_remember():
    variable = _variable([1.0, 2.0])
    optimizer = RMSpropWarmup(0.0)
    optimizer.sgd_share = 0.5
    optimizer.apply([np.array([1.0, -1.0], np.float32)], [variable])
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
    np.testing.assert_allclose(optimizer.buffers[0].numpy(), [-0.5, 0.5])


def test_a_gradient_of_0_does_nothing():
    variable = _variable([1.0, 2.0])
    optimizer = RMSpropWarmup(0.1)
    optimizer.sgd_share = 0.0
    optimizer.apply([np.zeros(2, np.float32)], [variable])
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])


def test_the_share_belongs_to_the_state():
    optimizer = RMSpropWarmup(0.1)
    assert float(optimizer.sgd_share) == 1.0
    assert any(v is optimizer.sgd_share for v in optimizer.variables)
    # Once only: checkpoints are by path.
    optimizer.build([_variable(1.0)])
    paths = [v.path for v in optimizer.variables]
    assert len(paths) == len(set(paths))
    assert sum(path.endswith("sgd_share") for path in paths) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"rms_decay": 1.0}, "rms_decay=1.0"),
        ({"rms_decay": -0.1}, "rms_decay=-0.1"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"rms_learning_rate": -1.0}, "rms_learning_rate=-1.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ],
)
def test_impossible_constants_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RMSpropWarmup(**arguments)
