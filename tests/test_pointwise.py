"""Convolutions of 1 x 1 by AMX against products in float64.

Only where there is AMX; how a layer chooses them is tested everywhere.
"""

import numpy as np
import pytest
import tensorflow as tf

import convolving
from hvd_imagenet.kernels import build, loading, pointwise, processor

pytestmark = pytest.mark.core

_OPERATIONS = {"HvdImagenetPointwise", "HvdImagenetPointwiseByWeights"}
_HAS_AMX = pointwise.works_for("float32")
_needs_amx = pytest.mark.skipif(
    not _HAS_AMX, reason="there is no AMX, or the compiler knows none"
)


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
        convolving.draw(batch, height, width, channels),
        convolving.draw(1, 1, channels, filters, seed=1),
        convolving.draw(batch, height, width, filters, seed=2),
    )
    expected = convolving.all_of(
        lambda images, weights: images @ weights[0, 0],
        *(tf.cast(x, tf.float64) for x in inputs),
    )
    by_float32 = convolving.all_of(
        lambda images, weights: tf.nn.conv2d(images, weights, 1, "SAME"),
        *inputs,
    )
    found = convolving.all_of(pointwise.convolve, *inputs)
    assert max(convolving.distances(found, expected)) < 5e-7
    for mine, theirs in zip(
        convolving.distances(found, expected),
        convolving.distances(by_float32, expected),
        strict=True,
    ):
        assert mine < 2 * theirs + 1e-7


@_needs_amx
def test_numbers_of_all_sizes_keep_their_digits():
    """The parts of small numbers are not lost beside those of large ones."""
    scales = tf.constant(10.0 ** np.linspace(-30, 30, 64), tf.float32)
    images = convolving.draw(1, 8, 8, 64) * scales
    weights = convolving.draw(1, 1, 64, 32, seed=1) / scales[:, None]
    found = pointwise.convolve(images, weights)
    exact = tf.cast(images, tf.float64) @ tf.cast(weights[0, 0], tf.float64)
    assert convolving.distances([found], [exact])[0] < 5e-7


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
    images, weights = (
        convolving.draw(11, 9, 9, 64),
        convolving.draw(1, 1, 64, 96, seed=1),
    )
    together = pointwise.convolve(images, weights)
    for number in (0, 5, 10):
        alone = pointwise.convolve(images[number : number + 1], weights)
        np.testing.assert_array_equal(alone[0], together[number])


@_needs_amx
def test_what_is_no_number_is_not_lost():
    images = convolving.draw(1, 6, 6, 32).numpy()
    images[0, 2, 3, 4] = np.nan
    images[0, 5, 0, 1] = np.inf
    made = pointwise.convolve(images, convolving.draw(1, 1, 32, 32)).numpy()
    bad = ~np.isfinite(made)
    assert bad[0, 2, 3].all()
    assert bad[0, 5, 0].all()
    assert bad.sum() == 64


@_needs_amx
def test_the_numbers_are_the_same_from_any_number_of_threads(tmp_path):
    convolving.assert_threads_make_no_difference(
        tmp_path, pointwise.__name__, side=1, threads=(1, 3)
    )


@_needs_amx
def test_onednn_finds_its_own_tiles_afterwards():
    """Threads that both use: products of bfloat16 between those of float32."""
    halves = tf.cast(convolving.draw(256, 256), tf.bfloat16)
    images, weights = (
        convolving.draw(2, 16, 16, 64),
        convolving.draw(1, 1, 64, 64, seed=1),
    )
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


_ARGUMENTS = {"kernel_size": 1, "filters": 64}


def _kinds(**changes):
    shape = (4, 16, 16, 32)
    return convolving.kinds(**{"shape": shape, **_ARGUMENTS, **changes})


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
