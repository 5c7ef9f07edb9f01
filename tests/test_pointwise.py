"""Convolutions of 1 x 1 by AMX against products in float64.

Only where there is AMX; how a layer chooses them is tested everywhere.
"""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet.convolutions import Convolution
from hvd_imagenet.kernels import build, loading, pointwise, processor

pytestmark = pytest.mark.core

_OPERATIONS = {"HvdImagenetPointwise", "HvdImagenetPointwiseByWeights"}
_HAS_AMX = pointwise.works_for("float32")
_needs_amx = pytest.mark.skipif(
    not _HAS_AMX, reason="there is no AMX, or the compiler knows none"
)


def _draw(*shape, seed=0):
    generator = np.random.default_rng(seed)
    return tf.constant(generator.normal(size=shape), tf.float32)


def _all_of(convolve, images, weights, upstream):
    """What is made, and the gradients by images and weights."""
    with tf.GradientTape() as tape:
        tape.watch([images, weights])
        made = convolve(images, weights)
    return [made, *tape.gradient(made, [images, weights], upstream)]


def _distances(found, expected):
    return [
        float(np.linalg.norm(np.float64(one) - other) / np.linalg.norm(other))
        for one, other in zip(found, expected, strict=True)
    ]


@_needs_amx
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "filters"),
    [
        (1, 1, 1, 32, 32),  # Less than a tile.
        (1, 4, 8, 32, 64),  # Tiles that fit.
        (3, 5, 7, 96, 160),  # Tiles that reach beyond.
        (2, 7, 7, 2048, 512),
        (2, 7, 7, 512, 2048),
        (9, 33, 33, 64, 256),  # Several blocks and chunks, the last not full,
        (40, 32, 32, 256, 128),  # and results that go past the caches.
    ],
)
def test_it_is_as_close_as_float32(batch, height, width, channels, filters):
    inputs = (
        _draw(batch, height, width, channels),
        _draw(1, 1, channels, filters, seed=1),
        _draw(batch, height, width, filters, seed=2),
    )
    expected = _all_of(
        lambda images, weights: images @ weights[0, 0],
        *(tf.cast(x, tf.float64) for x in inputs),
    )
    by_float32 = _all_of(
        lambda images, weights: tf.nn.conv2d(images, weights, 1, "SAME"),
        *inputs,
    )
    found = _all_of(pointwise.convolve, *inputs)
    assert max(_distances(found, expected)) < 5e-7
    for mine, theirs in zip(
        _distances(found, expected),
        _distances(by_float32, expected),
        strict=True,
    ):
        assert mine < 2 * theirs + 1e-7


@_needs_amx
def test_numbers_of_all_sizes_keep_their_digits():
    """The parts of small numbers are not lost beside those of large ones."""
    scales = tf.constant(10.0 ** np.linspace(-30, 30, 64), tf.float32)
    images = _draw(1, 8, 8, 64) * scales
    weights = _draw(1, 1, 64, 32, seed=1) / scales[:, None]
    found = pointwise.convolve(images, weights)
    exact = tf.cast(images, tf.float64) @ tf.cast(weights[0, 0], tf.float64)
    assert _distances([found], [exact])[0] < 5e-7


@_needs_amx
def test_products_of_few_digits_are_exact():
    """Integers of 24 bits times powers of two: all three parts are needed."""
    images = np.zeros([1, 4, 8, 32], np.float32)
    numbers = np.random.default_rng(0).integers(1, 2**24, size=[1, 4, 8])
    images[..., 5] = numbers
    weights = np.zeros([1, 1, 32, 32], np.float32)
    weights[0, 0, 5] = -(2.0 ** np.arange(32))
    found = pointwise.convolve(tf.constant(images), tf.constant(weights))
    expected = -numbers[..., None] * 2.0 ** np.arange(32)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@_needs_amx
def test_an_image_is_the_same_in_any_batch():
    images, weights = _draw(11, 9, 9, 64), _draw(1, 1, 64, 96, seed=1)
    together = pointwise.convolve(images, weights)
    for number in (0, 5, 10):
        alone = pointwise.convolve(images[number : number + 1], weights)
        np.testing.assert_array_equal(alone[0], together[number])


@_needs_amx
def test_what_is_no_number_is_not_lost():
    images = _draw(1, 6, 6, 32).numpy()
    images[0, 2, 3, 4] = np.nan
    images[0, 5, 0, 1] = np.inf
    made = pointwise.convolve(images, _draw(1, 1, 32, 32)).numpy()
    bad = ~np.isfinite(made)
    assert bad[0, 2, 3].all()
    assert bad[0, 5, 0].all()
    assert bad.sum() == 64


_THREADS = """
import sys
import numpy as np
import tensorflow as tf
from hvd_imagenet.kernels import pointwise

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
images = tf.random.stateless_normal([9, 30, 30, 64], [1, 2])
weights = tf.random.stateless_normal([1, 1, 64, 96], [3, 4])
with tf.GradientTape() as tape:
    tape.watch([images, weights])
    made = pointwise.convolve(images, weights)
    loss = tf.reduce_mean(made ** 2)
np.savez(sys.argv[2], made, *tape.gradient(loss, [images, weights]))
"""


@_needs_amx
def test_the_numbers_are_the_same_from_any_number_of_threads(tmp_path):
    found = []
    for threads in (1, 3):
        path = tmp_path / f"{threads}.npz"
        subprocess.run(
            [sys.executable, "-c", _THREADS, str(threads), str(path)],
            check=True,
            timeout=120,
        )
        found.append(np.load(path))
    for name in found[0].files:
        np.testing.assert_array_equal(found[0][name], found[1][name])


@_needs_amx
def test_onednn_finds_its_own_tiles_afterwards():
    """Threads that both use: products of bfloat16 between those of float32."""
    halves = tf.cast(_draw(256, 256), tf.bfloat16)
    images, weights = _draw(2, 16, 16, 64), _draw(1, 1, 64, 64, seed=1)
    alone = tf.matmul(halves, halves)
    for _ in range(20):
        pointwise.convolve(images, weights)
        np.testing.assert_array_equal(
            tf.cast(tf.matmul(halves, halves), tf.float32),
            tf.cast(alone, tf.float32),
        )


@_needs_amx
@pytest.mark.parametrize(
    ("images", "weights", "words"),
    [
        ((2, 4, 32), (1, 1, 32, 32), "rank 4"),
        ((1, 4, 4, 48), (1, 1, 48, 32), "a multiple of 32"),
        ((1, 4, 4, 32), (1, 1, 64, 32), "do not fit"),
        ((1, 4, 4, 32), (1, 1, 32, 40), "do not fit"),
        ((1, 4, 4, 32), (3, 3, 32, 32), "do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(images, weights, words):
    with pytest.raises(
        (tf.errors.InvalidArgumentError, ValueError), match=words
    ):
        tf.function(pointwise.convolve)(tf.zeros(images), tf.zeros(weights))


@_needs_amx
def test_gradients_of_other_shapes_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="upstream must"):
        pointwise.load().hvd_imagenet_pointwise_by_weights(
            images=tf.zeros([1, 4, 4, 32]), upstream=tf.zeros([1, 4, 5, 32])
        )


@_needs_amx
def test_no_images_have_no_gradient():
    gradient = pointwise.load().hvd_imagenet_pointwise_by_weights(
        images=tf.zeros([0, 4, 4, 32]), upstream=tf.zeros([0, 4, 4, 64])
    )
    np.testing.assert_array_equal(gradient, np.zeros([1, 1, 32, 64]))


# --- In a layer. ---


def _kinds(shape=(4, 16, 16, 32), signature=None, **changes):
    """Operations of a layer and of its gradients."""
    layer = Convolution(**{"kernel_size": 1, "filters": 64, **changes})
    layer.build(shape)
    dtype = layer.compute_dtype

    @tf.function(input_signature=[tf.TensorSpec(signature or shape, dtype)])
    def gradients(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            made = layer(images)
        return tape.gradient(made, [images, layer.kernel.value])

    graph = gradients.get_concrete_function().graph
    return {operation.type for operation in graph.get_operations()}


@_needs_amx
@pytest.mark.parametrize("changes", [{}, {"padding": "same"}])
def test_layers_are_made_by_it(changes):
    assert _OPERATIONS <= _kinds(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "tensorflow"},
        {"kernel_size": 3},
        {"strides": 2},
        {"groups": 2},
        {"filters": 40},
        {"shape": (4, 16, 16, 20)},
        {"shape": (3, 16, 16, 32)},
        {"signature": (None, 16, 16, 32)},
        {"signature": (4, None, None, 32)},
        {"dtype": "mixed_bfloat16"},
    ],
)
def test_other_layers_are_not(changes):
    assert not _OPERATIONS & _kinds(**changes)


def test_without_amx_tensorflow_takes_over(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 avx512bw\n")
    monkeypatch.setattr(processor, "_CPU_INFO", tmp_path / "cpuinfo")
    pointwise.load.cache_clear()
    try:
        with pytest.raises(loading.MissingKernelError, match="has no AMX"):
            pointwise.load()
        assert not _OPERATIONS & _kinds()
    finally:
        monkeypatch.undo()
        pointwise.load.cache_clear()


def test_a_compiler_without_amx_leaves_it_out(monkeypatch, tmp_path, capsys):
    """As GCC before 11, which the other operations are compiled by."""
    monkeypatch.setattr(build, "_is_known", lambda options: False)
    made = []
    monkeypatch.setattr(build, "compile_library", made.append)
    monkeypatch.setattr(build, "_FOLDER", tmp_path)
    build.main()
    assert "pointwise" not in made
    assert "winograd" in made
    if "pointwise" in build._LIBRARIES:
        assert "does not know -mamx-tile" in capsys.readouterr().err


def test_what_the_compiler_knows_is_asked():
    assert build._is_known(["-O2"])
    assert not build._is_known(["-mno-such-option-at-all"])
