"""Weights' gradients by matrix products: those of a convolution."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import convolutions, resnet
from hvd_imagenet.config import ModelConfig
from hvd_imagenet.convolutions import Convolution
from hvd_imagenet.kernels import processor

# Window, stride, padding, height and width.
_PRODUCTS = (
    (1, 1, "same", 5, 7),
    (1, 1, "valid", 40, 30),
    (1, 2, "valid", 8, 6),
    (1, 2, "valid", 7, 9),
    (1, 2, "same", 28, 27),
    (1, 3, "same", 8, 10),
    (3, 1, "same", 14, 14),
    (3, 1, "same", 1, 2),
    (5, 1, "same", 6, 3),
)
_NONE = (
    (3, 2, "valid", 9, 9),
    (3, 2, "same", 9, 9),
    (3, 1, "valid", 9, 9),
    (2, 1, "same", 9, 9),
    (3, 1, "same", 15, 14),
    (1, 2, "valid", 30, 28),
    (7, 2, "valid", 20, 20),
)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(convolutions, "are_faster", lambda dtype: True)


def _gradients(kind, case, policy="float32"):
    """Results, gradients by images and by weights, operations of a graph."""
    size, stride, padding, height, width = case
    generator = np.random.default_rng(0)
    images = tf.constant(generator.normal(size=(4, height, width, 6)))
    layer = kind(5, size, stride, padding=padding, use_bias=False, dtype=policy)
    layer.build(images.shape)
    layer.kernel.assign(generator.normal(size=layer.kernel.shape))

    @tf.function
    def both(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            results = tf.cast(layer(images), tf.float32)
            loss = tf.reduce_sum(tf.sin(results))
        return results, *tape.gradient(loss, [images, layer.kernel.value])

    graph = both.get_concrete_function(images).graph
    kinds = [op.type for op in graph.get_operations()]
    return [part.numpy() for part in both(images)], kinds


@pytest.mark.parametrize("case", _PRODUCTS + _NONE)
def test_gradients_are_those_of_keras(always, case):
    ours, kinds = _gradients(Convolution, case)
    theirs, _ = _gradients(keras.layers.Conv2D, case)
    for one, other in zip(ours, theirs, strict=True):
        assert np.linalg.norm(one - other) < 1e-5 * np.linalg.norm(other)
    assert ("Conv2DBackpropFilter" in kinds) == (case in _NONE)
    assert kinds.count("MatMul") == (case[0] ** 2 if case in _PRODUCTS else 0)


@pytest.mark.parametrize("case", _PRODUCTS)
def test_bfloat16_is_as_close_as_a_convolution_is(always, case):
    exact, _ = _gradients(keras.layers.Conv2D, case)
    ours, _ = _gradients(Convolution, case, "mixed_bfloat16")
    theirs, _ = _gradients(keras.layers.Conv2D, case, "mixed_bfloat16")
    for one, other, wanted in zip(ours, theirs, exact, strict=True):
        error, usual = (np.linalg.norm(x - wanted) for x in (one, other))
        assert error < 1.1 * usual + 1e-6
        assert error < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize(
    ("size", "stride", "zeros"), [(7, 2, 3), (3, 2, 1), (3, 1, 2), (1, 2, 1)]
)
@pytest.mark.parametrize("algorithm", ["auto", "tensorflow"])
def test_zeros_around_images_are_those_of_a_layer(
    channels, size, stride, zeros, algorithm
):
    generator = np.random.default_rng(0)
    images = tf.constant(
        generator.normal(size=(16, 23, 20, channels)), tf.float32
    )
    layer = Convolution(
        32, size, stride, zeros=zeros, use_bias=False, algorithm=algorithm
    )
    layer = Convolution.from_config(layer.get_config())
    theirs = keras.Sequential(
        [
            keras.layers.ZeroPadding2D(zeros),
            keras.layers.Conv2D(32, size, stride, use_bias=False),
        ]
    )
    expected = theirs(images)
    layer.build(images.shape)
    layer.set_weights(theirs.get_weights())
    found = layer(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert layer.compute_output_shape(images.shape) == found.shape
    assert layer.compute_output_shape((None, None, 20, channels)) == (
        *(None, None),
        *found.shape[2:],
    )


def test_of_images_of_any_size_only_simple_ones_are_products(always):
    for size, has_products in ((1, True), (3, False)):
        layer = Convolution(5, size, padding="same", use_bias=False)
        layer.build([None, None, None, 6])

        @tf.function(
            input_signature=[tf.TensorSpec([None, None, None, 6], tf.float32)]
        )
        def gradient(images, layer=layer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(images))
            return tape.gradient(loss, layer.kernel.value)

        graph = gradient.get_concrete_function().graph
        kinds = {op.type for op in graph.get_operations()}
        assert ("MatMul" in kinds) == has_products
        np.testing.assert_allclose(
            gradient(tf.ones([2, 9, 9, 6]))[size // 2, size // 2], 162.0
        )


@pytest.mark.parametrize(
    ("text", "dtype", "gpus", "expected"),
    [
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile\n", tf.bfloat16, [], True),
        ("flags\t\t: fpu avx512_bf16\n", tf.bfloat16, [], False),
        ("flags\t\t: fpu amx_bf16\n", tf.float32, [], False),
        ("flags\t\t: fpu amx_bf16\n", tf.bfloat16, ["GPU:0"], False),
        ("Features : asimd\n", tf.bfloat16, [], False),
        (None, tf.bfloat16, [], False),
    ],
)
def test_products_are_for_bfloat16_on_cpus_with_amx(
    monkeypatch, tmp_path, text, dtype, gpus, expected
):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(f"processor\t: 0\n{text}")
    monkeypatch.setattr(processor, "_CPU_INFO", path)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    assert convolutions.are_faster.__wrapped__(dtype) is expected


def test_a_network_learns_the_same_with_them(monkeypatch):
    config = ModelConfig(model="resnet50", num_classes=3, image_size=64)
    images = tf.random.stateless_normal([2, 64, 64, 3], [0, 1])
    gradients = []
    for faster in (False, True):
        keras.utils.set_random_seed(0)
        monkeypatch.setattr(
            convolutions, "are_faster", lambda dtype, faster=faster: faster
        )
        model = resnet.build_model(config)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True)[:, 0])
        weights = [v.value for v in model.trainable_variables]
        gradients.append(tape.gradient(loss, weights))
    for one, other in zip(*gradients, strict=True):
        scale = float(tf.norm(other)) + 1e-6
        assert float(tf.norm(one - other)) < 1e-3 * scale
