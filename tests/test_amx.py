"""Convolutions by AMX against the definition in float64.

Only where there is AMX; how a layer chooses them is tested everywhere.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

import convolving
from hvd_imagenet.kernels import amx, build, loading, processor

pytestmark = pytest.mark.core

_OPERATIONS = {"HvdImagenetAmx", "HvdImagenetAmxByWeights"}
_HAS_AMX = amx.works_for("float32")
_needs_amx = pytest.mark.skipif(
    not _HAS_AMX, reason="there is no AMX, or the compiler knows none"
)


def _by_tensorflow(images, weights, *, step, zeros):
    sides = [zeros, zeros]
    padded = tf.pad(images, [[0, 0], sides, sides, [0, 0]])
    return tf.nn.conv2d(padded, weights, step, "VALID")


@_needs_amx
@pytest.mark.parametrize(
    ("window", "images", "filters"),
    [
        # Side, step and zeros.
        ((1, 1, 0), (1, 1, 1, 32), 32),  # Less than a square.
        ((1, 1, 0), (1, 4, 8, 32), 64),  # Squares that fit.
        ((1, 1, 0), (3, 5, 7, 96), 160),  # Squares that reach beyond.
        ((1, 1, 0), (2, 7, 7, 2048), 512),  # Several sums of channels.
        ((1, 1, 0), (2, 7, 7, 512), 2048),
        ((1, 1, 0), (9, 33, 33, 64), 256),  # Several blocks and chunks,
        ((1, 1, 0), (40, 32, 32, 256), 128),  # and results past the caches.
        ((1, 2, 0), (3, 8, 6, 64), 96),
        ((1, 2, 0), (3, 9, 7, 64), 96),  # The last places are in no window.
        ((1, 2, 0), (2, 56, 56, 256), 512),
        ((3, 1, 1), (1, 1, 1, 32), 32),
        ((3, 1, 1), (3, 5, 7, 96), 160),
        ((3, 1, 1), (2, 7, 7, 512), 512),
        ((3, 1, 1), (9, 33, 31, 64), 64),
        ((3, 1, 1), (1, 4, 700, 256), 32),  # A window sees more than a block.
        ((3, 2, 1), (3, 8, 6, 64), 96),
        ((3, 2, 1), (3, 9, 7, 64), 96),
        ((3, 2, 0), (3, 10, 8, 64), 96),
        ((3, 2, 0), (9, 30, 31, 256), 256),
        ((3, 2, 2), (1, 1, 2, 32), 32),
        ((5, 1, 2), (3, 11, 11, 64), 32),
        ((5, 2, 2), (3, 11, 12, 64), 32),
        ((7, 2, 0), (2, 70, 72, 3), 64),  # Colours of a row at once.
    ],
)
def test_it_is_as_close_as_float32(window, images, filters):
    side, step, zeros = window
    arguments = {"step": step, "zeros": zeros}
    reference = functools.partial(_by_tensorflow, **arguments)
    inputs = [
        convolving.draw(*images),
        convolving.draw(side, side, images[3], filters, seed=1),
    ]
    inputs.append(convolving.draw(*reference(*inputs).shape, seed=2))
    expected = convolving.all_of(
        reference, *(tf.cast(x, tf.float64) for x in inputs)
    )
    found = convolving.all_of(
        functools.partial(amx.convolve, **arguments), *inputs
    )
    by_float32 = convolving.all_of(reference, *inputs)
    assert max(convolving.distances(found, expected)) < 6e-7
    for mine, theirs in zip(
        convolving.distances(found, expected),
        convolving.distances(by_float32, expected),
        strict=True,
    ):
        assert mine < 3 * theirs + 1e-7


@_needs_amx
def test_numbers_of_all_sizes_keep_their_digits():
    """The parts of small numbers are not lost beside those of large ones."""
    scales = tf.constant(10.0 ** np.linspace(-30, 30, 64), tf.float32)
    images = convolving.draw(1, 8, 8, 64) * scales
    weights = convolving.draw(1, 1, 64, 32, seed=1) / scales[:, None]
    found = amx.convolve(images, weights)
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
    found = amx.convolve(tf.constant(images), tf.constant(weights))
    expected = -numbers[..., None] * 2.0 ** np.arange(32)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@_needs_amx
@pytest.mark.parametrize(("side", "step"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_an_image_is_the_same_in_any_batch(side, step):
    images, weights = (
        convolving.draw(11, 9, 9, 64),
        convolving.draw(side, side, 64, 96, seed=1),
    )
    convolve = functools.partial(amx.convolve, step=step, zeros=side // 2)
    together = convolve(images, weights)
    for number in (0, 5, 10):
        alone = convolve(images[number : number + 1], weights)
        np.testing.assert_array_equal(alone[0], together[number])


@_needs_amx
def test_what_is_no_number_is_not_lost():
    images = convolving.draw(1, 6, 6, 32).numpy()
    images[0, 2, 3, 4] = np.nan
    images[0, 5, 0, 1] = np.inf
    made = amx.convolve(images, convolving.draw(1, 1, 32, 32)).numpy()
    bad = ~np.isfinite(made)
    assert bad[0, 2, 3].all()
    assert bad[0, 5, 0].all()
    assert bad.sum() == 64


@_needs_amx
def test_what_is_no_number_stays_in_its_windows():
    images = convolving.draw(2, 6, 5, 32).numpy()
    images[0, 5, 4, 3] = np.nan
    weights = convolving.draw(3, 3, 32, 32)
    made = amx.convolve(images, weights, zeros=1).numpy()
    assert np.isnan(made[0, 4:, 3:]).all()
    # Not beyond an image's or a row's end.
    assert np.isnan(made).sum() == 4 * 32


@_needs_amx
@pytest.mark.parametrize("side", [1, 3])
def test_the_numbers_are_the_same_from_any_number_of_threads(tmp_path, side):
    convolving.assert_threads_make_no_difference(
        tmp_path, amx.__name__, side=side, threads=(1, 3), zeros=side // 2
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
        amx.convolve(images, weights)
        np.testing.assert_array_equal(
            tf.cast(tf.matmul(halves, halves), tf.float32),
            tf.cast(alone, tf.float32),
        )


@_needs_amx
@pytest.mark.parametrize(
    ("images", "weights", "window", "words"),
    [
        ((2, 4, 32), (1, 1, 32, 32), {}, "rank 4"),
        ((1, 4, 4, 48), (1, 1, 48, 32), {}, "multiple of 32 channels, not 48"),
        ((1, 4, 4, 32), (1, 1, 64, 32), {}, "do not fit"),
        ((1, 4, 4, 32), (1, 1, 32, 40), {}, "multiple of 32 filters, not 40"),
        ((1, 4, 4, 32), (3, 3, 32, 32), {}, "with 0 zeros"),
        ((1, 4, 4, 32), (2, 2, 32, 32), {"step": 2}, "2 x 2"),
        ((1, 4, 4, 32), (3, 3, 32, 32), {"step": 3}, "step 3"),
        ((1, 4, 4, 32), (3, 3, 32, 32), {"step": 2, "zeros": 3}, "3 zeros"),
        ((1, 4, 4, 32), (7, 7, 32, 32), {"step": 2, "zeros": 1}, "smaller"),
        ((1, 9, 9, 3), (7, 7, 3, 32), {"step": 2, "zeros": 3}, "not 3"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(images, weights, window, words):
    with pytest.raises(
        (tf.errors.InvalidArgumentError, ValueError), match=words
    ):
        amx.convolve(tf.zeros(images), tf.zeros(weights), **window)


@_needs_amx
def test_shapes_are_known_before_it_runs():
    @tf.function(
        input_signature=[tf.TensorSpec([None, 31, None, 32], tf.float32)]
    )
    def convolve(images):
        weights = tf.zeros([3, 3, 32, 64])
        return amx.convolve(images, weights, step=2, zeros=1)

    made = convolve.get_concrete_function().structured_outputs
    assert made.shape.as_list() == [None, 16, None, 64]
    assert convolve(tf.zeros([1, 31, 9, 32])).shape == (1, 16, 5, 64)


@_needs_amx
def test_gradients_of_other_shapes_are_refused():
    window = {"step": 1, "zeros": 0}
    with pytest.raises(tf.errors.InvalidArgumentError, match="upstream must"):
        amx.load().hvd_imagenet_amx_by_weights(
            images=tf.zeros([1, 4, 4, 32]),
            upstream=tf.zeros([1, 4, 5, 32]),
            side=1,
            **window,
        )
    with pytest.raises(tf.errors.InvalidArgumentError, match="upstream must"):
        amx.load().hvd_imagenet_amx_by_images(
            upstream=tf.zeros([1, 4, 5, 32]),
            weights=tf.zeros([1, 1, 32, 32]),
            height=4,
            width=4,
            **window,
        )


@_needs_amx
def test_no_images_have_no_gradient():
    gradient = amx.load().hvd_imagenet_amx_by_weights(
        images=tf.zeros([0, 4, 4, 32]),
        upstream=tf.zeros([0, 4, 4, 64]),
        side=1,
        step=1,
        zeros=0,
    )
    np.testing.assert_array_equal(gradient, np.zeros([1, 1, 32, 64]))


# --- In a layer. ---


_ARGUMENTS = {"kernel_size": 1, "filters": 64}


def _kinds(**changes):
    shape = (4, 16, 16, 32)
    return convolving.kinds(**{"shape": shape, **_ARGUMENTS, **changes})


_THREE = {"kernel_size": 3}
_TWO = {"strides": 2}


@_needs_amx
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"padding": "same"},
        _TWO | {"shape": (16, 16, 16, 32)},
        _TWO | {"shape": (16, 16, 16, 32), "padding": "same"},
        _THREE | {"padding": "same"},
        _THREE | _TWO | {"shape": (16, 17, 17, 32)},
        _THREE | _TWO | {"shape": (16, 16, 16, 32), "zeros": 1},
        _TWO | {"kernel_size": 7, "zeros": 3, "shape": (4, 32, 32, 3)},
    ],
)
def test_layers_are_made_by_it(changes):
    assert _OPERATIONS <= _kinds(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "tensorflow"},
        _THREE,
        _THREE | {"zeros": 1},
        _THREE | {"padding": "same", "zeros": 1},
        _THREE | _TWO | {"shape": (16, 16, 16, 32), "padding": "same"},
        _THREE | _TWO | {"shape": (16, 16, 16, 32), "zeros": 3},
        {"kernel_size": 2, "padding": "same"},
        {"kernel_size": (1, 3), "padding": "same"},
        {"strides": 3, "shape": (16, 48, 48, 32)},
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


@_needs_amx
def test_a_network_learns_the_same_by_it():
    # The stem, and stage 1: its blocks, and the first one's shortcut. Later
    # ones have too few places.
    convolving.assert_networks_learn_the_same(4, "HvdImagenetAmx", 12)


def test_without_amx_tensorflow_takes_over(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 avx512bw\n")
    monkeypatch.setattr(processor, "_CPU_INFO", tmp_path / "cpuinfo")
    amx.load.cache_clear()
    try:
        with pytest.raises(loading.MissingKernelError, match="has no AMX"):
            amx.load()
        assert not _OPERATIONS & _kinds()
    finally:
        monkeypatch.undo()
        amx.load.cache_clear()


def test_a_compiler_without_amx_leaves_it_out(monkeypatch, tmp_path, capsys):
    """As GCC before 11, which the other operations are compiled by."""
    monkeypatch.setattr(build, "_is_known", lambda options: False)
    made = []
    monkeypatch.setattr(build, "compile_library", made.append)
    monkeypatch.setattr(build, "_FOLDER", tmp_path)
    build.main()
    assert "amx" not in made
    assert "winograd" in made
    if "amx" in build._LIBRARIES:
        assert "a compiler that knows -mamx-tile" in capsys.readouterr().err
        with pytest.raises(loading.MissingKernelError, match="GCC from 11"):
            loading.operations("amx")


def test_what_the_compiler_knows_is_asked():
    assert build._is_known(["-O2"])
    assert not build._is_known(["-mno-such-option-at-all"])
