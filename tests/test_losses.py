"""Losses: worked by hand, against dense targets in NumPy, and refusals."""

from math import log

import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet.losses import Loss

# Softmax 3/10, 2/10 and 5/10; sigmoids 3/4, 2/3 and 5/6. The label is class 2.
_LOGITS = [[log(3), log(2), log(5)]]
_MIXED = ([0], [0.25])  # A quarter of an image of class 0.


def _loss(loss, partners=None):
    if partners is not None:
        labels, shares = partners
        partners = (tf.constant(labels), tf.constant(shares, tf.float32))
    losses = loss(tf.constant([2]), tf.constant(_LOGITS, tf.float32), partners)
    assert losses.dtype == tf.float32
    (value,) = losses.numpy()
    return value


@pytest.mark.parametrize(
    ("knobs", "partners", "expected"),
    [
        ({}, None, log(2)),
        ({}, _MIXED, 0.75 * log(2) + 0.25 * log(10 / 3)),
        # 0.3 of the target in tenths on all classes.
        (
            {"label_smoothing": 0.3},
            None,
            0.8 * log(2) + 0.1 * log(10 / 3) + 0.1 * log(5),
        ),
        # 0.7 x (0.25, 0, 0.75) + 0.1.
        (
            {"label_smoothing": 0.3},
            _MIXED,
            0.275 * log(10 / 3) + 0.1 * log(5) + 0.625 * log(2),
        ),
    ],
)
def test_golden_softmax(knobs, partners, expected):
    assert _loss(Loss(**knobs), partners) == pytest.approx(expected, rel=1e-6)


# Of a class with the target t: -t log(sigmoid) - (1 - t) log(1 - sigmoid).
@pytest.mark.parametrize(
    ("knobs", "partners", "expected"),
    [
        ({}, None, (log(4) + log(3) + log(6 / 5)) / 3),
        (
            {},
            _MIXED,
            (
                (0.25 * log(4 / 3) + 0.75 * log(4))
                + log(3)
                + (0.75 * log(6 / 5) + 0.25 * log(6))
            )
            / 3,
        ),
        (
            {"label_smoothing": 0.3},
            None,
            (
                (0.1 * log(4 / 3) + 0.9 * log(4))
                + (0.1 * log(3 / 2) + 0.9 * log(3))
                + (0.8 * log(6 / 5) + 0.2 * log(6))
            )
            / 3,
        ),
        # Targets 0.25, 0 and 0.75.
        (
            {"target_threshold": 0.2},
            _MIXED,
            (log(4 / 3) + log(3) + log(6 / 5)) / 3,
        ),
        (
            {"target_threshold": 0.25},
            _MIXED,
            (log(4) + log(3) + log(6 / 5)) / 3,
        ),
        # Targets 0.275, 0.1 and 0.625: smoothing comes before the threshold.
        (
            {"target_threshold": 0.26, "label_smoothing": 0.3},
            _MIXED,
            (log(4 / 3) + log(3) + log(6 / 5)) / 3,
        ),
    ],
)
def test_golden_binary_cross_entropy(knobs, partners, expected):
    loss = Loss(form="bce", **knobs)
    assert _loss(loss, partners) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["softmax", "bce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_batches_equal_dense_targets_in_numpy(form, smoothing):
    generator = np.random.default_rng(0)
    batch, classes = 16, 7
    logits = generator.normal(scale=20, size=(batch, classes))
    labels, others = generator.integers(0, classes, (2, batch))
    shares = generator.uniform(size=batch)
    unit = np.eye(classes)
    targets = (1 - shares[:, None]) * unit[labels]
    targets += shares[:, None] * unit[others]
    targets = (1 - smoothing) * targets + smoothing / classes
    if form == "softmax":
        norm = np.logaddexp.reduce(logits, axis=1, keepdims=True)
        expected = np.sum(targets * (norm - logits), axis=1)
    else:
        expected = np.mean(
            targets * np.logaddexp(0, -logits)
            + (1 - targets) * np.logaddexp(0, logits),
            axis=1,
        )
    losses = Loss(form=form, label_smoothing=smoothing)(
        tf.constant(labels, tf.int32),
        tf.constant(logits, tf.float32),
        (tf.constant(others, tf.int32), tf.constant(shares, tf.float32)),
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"form": "sigmoid"}, "form=sigmoid must be"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1\.0 must be in"),
        ({"label_smoothing": -0.1}, r"label_smoothing=-0\.1 must be in"),
        ({"target_threshold": 0.2}, r"target_threshold=0\.2 is for"),
    ],
)
def test_impossible_losses_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Loss(**knobs)
