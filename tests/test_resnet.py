"""The network: published parameter counts, initial values, formats."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import (
    normalization,
    preprocessing,
    resnet,
    resnet_layers,
    sources,
)
from hvd_imagenet.config import ModelConfig


def _size(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.fixture(scope="module")
def resnet50():
    keras.utils.set_random_seed(1)
    return resnet.build_model(ModelConfig())


def test_resnet50_has_the_published_parameters(resnet50):
    trainable = resnet50.trainable_variables
    assert _size(trainable) == 25_557_032
    assert resnet50.count_params() == 25_610_152
    kernels = [v for v in trainable if v.name == "kernel"]
    convolutions = [v for v in kernels if len(v.shape) == 4]
    assert len(convolutions) == 53
    assert _size(convolutions) == 23_454_912
    coefficients = [v for v in trainable if v.name in ("gamma", "beta")]
    assert _size(coefficients) == 53_120
    assert len(trainable) == 161


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet10", 5_418_792),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_other_depths_have_torchvisions_parameters(name, parameters):
    model = resnet.build_model(ModelConfig(model=name, image_size=32))
    assert _size(model.trainable_variables) == parameters


@pytest.mark.parametrize("name", sorted(resnet_layers.STAGES))
def test_the_layers_as_numbers_are_those_of_the_model(name, resnet50):
    model = resnet50
    if name != "resnet50":
        model = resnet.build_model(ModelConfig(model=name))
    told = resnet_layers.layers(name, num_classes=1000, image_size=224)
    assert [(layer.name, n) for layer in told for n in layer.elements] == [
        (v.path.split("/")[0], int(np.prod(v.shape)))
        for v in model.trainable_variables
    ]


# Odd sides are rounded up, as padding by half a filter does.
@pytest.mark.parametrize("image_size", [224, 97])
def test_multiply_adds_are_those_of_the_model(image_size, resnet50):
    expected = {}
    for layer in resnet50.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            expected[layer.name] = layer
    images = keras.Input([image_size, image_size, 3])
    outputs = keras.Model(
        resnet50.inputs, [layer.output for layer in expected.values()]
    )(images)
    sides = dict(zip(expected, outputs, strict=True))
    for layer in resnet_layers.layers(
        "resnet50", num_classes=1000, image_size=image_size
    ):
        if layer.name in expected:
            weights = layer.elements[0]
            positions = int(np.prod(sides[layer.name].shape[1:-1]))
            assert layer.multiply_adds == weights * positions, layer.name
        else:
            assert layer.multiply_adds == 0


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    # torchvision gives 1.814 and, for v1.5, 4.089 x 10^9.
    [("resnet18", 1_814_073_344), ("resnet50", 4_089_184_256)],
)
def test_multiply_adds_are_those_that_are_published(name, multiply_adds):
    told = resnet_layers.layers(name, num_classes=1000, image_size=224)
    assert sum(layer.multiply_adds for layer in told) == multiply_adds
    # 112 x 112 outputs of 64 channels, of 7 x 7 x 3 inputs each.
    assert told[0].multiply_adds == 112**2 * 64 * 7**2 * 3


def test_the_last_gamma_of_every_block_starts_at_zero(resnet50):
    zero = [
        v
        for v in resnet50.trainable_variables
        if v.name == "gamma" and not np.any(v.numpy())
    ]
    assert len(zero) == 16
    assert _size(zero) == 15_104
    assert all("_bn3" in v.path for v in zero)
    plain = resnet.build_model(ModelConfig(image_size=32, zero_gamma=False))
    gammas = [v for v in plain.trainable_variables if v.name == "gamma"]
    assert all(np.all(v.numpy() == 1) for v in gammas)


def test_convolutions_start_from_he_fan_out(resnet50):
    for variable in resnet50.trainable_variables:
        if len(variable.shape) != 4 or _size([variable]) < 30_000:
            continue
        height, width, _, filters = variable.shape
        expected = np.sqrt(2 / (height * width * filters))
        assert np.std(variable.numpy()) == pytest.approx(expected, rel=0.02)
        # Not truncated: a truncated normal stays within 2.3 of its own sigma.
        assert np.max(np.abs(variable.numpy())) > 3 * expected


def test_the_last_layer_starts_from_a_narrow_normal(resnet50):
    kernel, bias = resnet50.get_layer("logits").variables
    assert np.std(kernel.numpy()) == pytest.approx(0.01, rel=0.01)
    assert not np.any(bias.numpy())


def test_the_first_loss_is_that_of_the_initialisation(resnet50):
    # The mean over all labels an image could have: with the labels of one
    # batch the loss scatters by 0.16 / sqrt(batch). Another initialisation of
    # the last layer leaves this range: Glorot's gives 7.01 to 7.24.
    source = sources.SyntheticSource(
        16, num_classes=1000, image_size=224, seed=0
    )
    images = tf.stack([tf.io.decode_jpeg(source.read(i)[0]) for i in range(16)])
    logits = resnet50(preprocessing.normalise(images), training=True)
    losses = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, 1)
    assert 6.92 < float(tf.reduce_mean(losses)) < 6.96


@pytest.mark.parametrize("size", [32, 65, 224])
def test_any_image_size_gives_logits(size):
    model = resnet.build_model(
        ModelConfig(model="resnet18", image_size=size, num_classes=7)
    )
    assert model(tf.zeros([2, size, size, 3])).shape == (2, 7)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits_keep_variables_and_logits_float32(precision):
    model = resnet.build_model(
        ModelConfig(model="resnet18", image_size=32, precision=precision)
    )
    assert {v.dtype for v in model.variables} == {"float32"}
    assert model.get_layer("stage1_block1_conv1").compute_dtype == precision
    logits = model(tf.random.normal([2, 32, 32, 3]), training=True)
    assert logits.dtype == tf.float32
    assert np.all(np.isfinite(logits.numpy()))


def test_the_stride_is_in_the_three_by_three_convolution(resnet50):
    block = "stage2_block1"
    assert resnet50.get_layer(f"{block}_conv1").strides == (1, 1)
    assert resnet50.get_layer(f"{block}_conv2").strides == (2, 2)


def test_batch_normalization_takes_its_settings_from_the_config():
    model = resnet.build_model(
        ModelConfig(
            model="resnet18",
            image_size=32,
            batch_norm_momentum=0.8,
            batch_norm_epsilon=1e-4,
        )
    )
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer, normalization.FusedBatchNormalization)
    ]
    assert len(layers) == 20
    assert {layer.momentum for layer in layers} == {0.8}
    assert {layer.epsilon for layer in layers} == {1e-4}


def test_blur_is_binomial_with_zeros_outside():
    images = np.random.default_rng(0).normal(size=(2, 5, 6, 3))
    blurred = resnet.Blur()(images.astype(np.float32)).numpy()
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(
        weight_y * weight_x / 16 * padded[:, y : y + 5, x : x + 6]
        for y, weight_y in enumerate((1, 2, 1))
        for x, weight_x in enumerate((1, 2, 1))
    )
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_blur_pool_comes_before_every_stride_but_the_stems(resnet50):
    model = resnet.build_model(ModelConfig(blur_pool=True))
    blurred = {
        layer.name.removesuffix("_blur")
        for layer in model.layers
        if isinstance(layer, resnet.Blur)
    }
    strided = {
        layer.name
        for layer in model.layers
        if getattr(layer, "strides", None) == (2, 2)
    }
    assert strided - blurred == {"stem_conv", "stem_pool"}
    assert len(blurred) == 6 and blurred < strided
    # Nothing to train in it, and the same shapes.
    assert _size(model.variables) == _size(resnet50.variables)
    assert model(tf.zeros([1, 64, 64, 3])).shape == (1, 1000)
