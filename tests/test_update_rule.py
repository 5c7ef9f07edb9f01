"""The optimizer of a configuration: its constants, and clipped gradients."""

import keras
import numpy as np
import pytest

from hvd_imagenet import update_rule
from hvd_imagenet.config import Config, ModelConfig, OptimizationConfig

_OPTIMIZERS = ("momentum", "lars", "lars_mlperf", "rmsprop_warmup", "lamb")


def _optimizer(precision="float32", **knobs):
    return update_rule.make_optimizer(
        Config(
            model=ModelConfig(precision=precision),
            optimization=OptimizationConfig(**knobs),
        )
    )


def _variables():
    return [
        keras.Variable(np.float32(value), name=name)
        for name, value in (("kernel", [1.0, 2.0]), ("bias", [3.0]))
    ]


def _moved(optimizer, steps):
    """Weights after steps with these gradients, at the rate 0.1."""
    variables = _variables()
    optimizer.build(variables)
    for gradients in steps:
        optimizer.learning_rate = 0.1
        scale = optimizer.scale_loss(np.float32(1.0))
        optimizer.apply([g * scale for g in gradients], variables)
    return np.concatenate([v.numpy() for v in variables])


def test_lambs_constants_are_knobs():
    optimizer = _optimizer(
        optimizer="lamb",
        lamb_beta_1=0.5,
        lamb_beta_2=0.75,
        lamb_epsilon=0.125,
        weight_decay=0.25,
    )
    constants = optimizer.get_config()
    assert constants["beta_1"] == 0.5
    assert constants["beta_2"] == 0.75
    assert constants["epsilon"] == 0.125
    assert constants["weight_decay"] == 0.25


# By hand: the norm over both is 5. At most 1 makes the gradients 0.6, 0 and
# 0.8; the kernel's decay of 0.5 w comes on top.
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, (1 - 0.1 * 3.5, 2 - 0.1 * 1.0, 3 - 0.1 * 4.0)),
        (1.0, (1 - 0.1 * 1.1, 2 - 0.1 * 1.0, 3 - 0.1 * 0.8)),
        (10.0, (1 - 0.1 * 3.5, 2 - 0.1 * 1.0, 3 - 0.1 * 4.0)),
    ],
)
# float16 scales the gradients by 2^15, which must not count.
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_golden_clipping_by_the_global_norm(limit, expected, precision):
    optimizer = _optimizer(
        precision,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.5,
        clip_global_norm=limit,
    )
    gradients = [np.float32([3.0, 0.0]), np.float32([4.0])]
    np.testing.assert_allclose(
        _moved(optimizer, [gradients]), expected, rtol=1e-6
    )


@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_all_clip_before_everything_else(name):
    generator = np.random.default_rng(0)
    steps = [
        [
            np.float32(size * generator.normal(size=2)),
            np.float32(size * generator.normal(size=1)),
        ]
        for size in (10.0, 0.01, 2.0)
    ]
    norms = [np.linalg.norm(np.concatenate(step)) for step in steps]
    assert [norm > 0.5 for norm in norms] == [True, False, True]
    shorter = [
        [gradient * np.float32(min(1.0, 0.5 / norm)) for gradient in step]
        for step, norm in zip(steps, norms, strict=True)
    ]
    knobs = {"optimizer": name, "weight_decay": 0.1}
    expected = _moved(_optimizer(**knobs), shorter)
    clipped = _moved(_optimizer(**knobs, clip_global_norm=0.5), steps)
    np.testing.assert_allclose(clipped, expected, rtol=1e-6)
    assert not np.allclose(
        clipped, _moved(_optimizer(**knobs), steps), rtol=1e-5
    )
