"""Fused batch normalization against NumPy and against Keras's own layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import normalization
from hvd_imagenet.normalization import FusedBatchNormalization

pytestmark = pytest.mark.core

_SHAPE = (8, 5, 6, 4)


def _images(seed):
    generator = np.random.default_rng(seed)
    return generator.normal(2.0, 3.0, _SHAPE).astype(np.float32)


def _statistics(images):
    """Mean, and unbiased variance, per channel."""
    rows = images.reshape(-1, images.shape[-1]).astype(np.float64)
    return rows.mean(axis=0), rows.var(axis=0, ddof=1)


def test_training_normalises_by_the_batch():
    images = _images(0)
    layer = FusedBatchNormalization(epsilon=1e-5)
    outputs = layer(images, training=True).numpy()
    rows = images.reshape(-1, 4)
    expected = (images - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_running_statistics_follow_their_formula():
    layer = FusedBatchNormalization(momentum=0.9)
    mean, variance = np.zeros(4), np.ones(4)
    for seed in range(3):
        layer(_images(seed), training=True)
        batch_mean, batch_variance = _statistics(_images(seed))
        mean = 0.9 * mean + 0.1 * batch_mean
        variance = 0.9 * variance + 0.1 * batch_variance
    np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance.numpy(), variance, rtol=1e-5
    )


def test_inference_uses_the_running_statistics_and_keeps_them():
    layer = FusedBatchNormalization(epsilon=1e-5)
    layer(_images(0), training=True)
    before = [v.numpy() for v in layer.variables]
    outputs = layer(_images(1), training=False).numpy()
    expected = (_images(1) - layer.moving_mean.numpy()) / np.sqrt(
        layer.moving_variance.numpy() + 1e-5
    )
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_equal_those_of_keras(training):
    ours = FusedBatchNormalization(epsilon=1e-3)
    theirs = keras.layers.BatchNormalization(epsilon=1e-3)
    results = []
    for layer in (ours, theirs):
        images = tf.constant(_images(3))
        layer.build(_SHAPE)
        layer.gamma.assign([1.0, 2.0, 0.5, -1.0])
        layer.beta.assign([0.0, 1.0, -1.0, 3.0])
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=training)
            loss = tf.reduce_sum(tf.sin(outputs))
        gradients = tape.gradient(
            loss, [images, layer.gamma.value, layer.beta.value]
        )
        results.append([outputs, *gradients])
    for mine, keras_own in zip(*results, strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("kernel", ["auto", "tensorflow"])
@pytest.mark.parametrize("training", [False, True])
def test_shortcut_and_rectifier_come_after_it(training, kernel):
    plain = FusedBatchNormalization()
    whole = FusedBatchNormalization(relu=True, kernel=kernel)
    images, shortcut = map(tf.constant, (_images(4), _images(5)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([images, shortcut])
        expected = tf.nn.relu(plain(images, training=training) + shortcut)
        found = whole(images, shortcut=shortcut, training=training)
        losses = [tf.reduce_sum(tf.sin(each)) for each in (expected, found)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    by_plain, by_whole = (
        tape.gradient(loss, [images, shortcut]) for loss in losses
    )
    for mine, exact in zip(by_whole, by_plain, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-3, atol=1e-5)
    for mine, exact in zip(whole.variables, plain.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), exact.numpy(), rtol=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_micro_batches_give_one_update_whatever_the_rank(ranks):
    """The mean over ranks is the update from all micro-batches at once."""
    batches = [_images(seed) for seed in range(4)]
    momentum = 0.9
    means, variances = [], []
    for rank in range(ranks):
        layer = FusedBatchNormalization(momentum=momentum)
        own = batches[rank::ranks]
        for number, images in enumerate(own):
            is_first = tf.constant(1.0 if number == 0 else 0.0)
            with normalization.micro_batch(is_first=is_first, count=len(own)):
                layer(images, training=True)
        means.append(layer.moving_mean.numpy())
        variances.append(layer.moving_variance.numpy())
    batch_means, batch_variances = zip(*map(_statistics, batches), strict=True)
    expected_mean = (1 - momentum) * np.mean(batch_means, axis=0)
    expected_variance = momentum + (1 - momentum) * np.mean(
        batch_variances, axis=0
    )
    np.testing.assert_allclose(np.mean(means, 0), expected_mean, rtol=1e-5)
    np.testing.assert_allclose(
        np.mean(variances, 0), expected_variance, rtol=1e-5
    )


def test_sixteen_bit_activations_keep_float32_statistics():
    layer = FusedBatchNormalization(dtype=keras.DTypePolicy("mixed_bfloat16"))
    outputs = layer(_images(0), training=True)
    assert outputs.dtype == tf.bfloat16
    assert {v.dtype for v in layer.variables} == {"float32"}
    mean, _ = _statistics(_images(0))
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * mean, rtol=2e-2)


def test_a_model_with_it_survives_saving(tmp_path):
    inputs = keras.Input(_SHAPE[1:])
    layer = FusedBatchNormalization(
        momentum=0.7, epsilon=1e-2, gamma_initializer="zeros", relu=True
    )
    model = keras.Model(inputs, layer(inputs, shortcut=inputs))
    model(_images(0), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].get_config() == layer.get_config()
    np.testing.assert_array_equal(
        loaded.layers[1].moving_mean.numpy(), layer.moving_mean.numpy()
    )
    assert len(normalization.running_statistics(loaded)) == 2
