"""Winograd's convolutions against the definition in float64."""

import ctypes

import numpy as np
import pytest
import tensorflow as tf

import convolving
from hvd_imagenet.convolutions import Convolution
from hvd_imagenet.kernels import amx, build, loading, processor, winograd

pytestmark = pytest.mark.core

_OPERATIONS = {"HvdImagenetWinograd", "HvdImagenetWinogradByWeights"}


def _by_definition(images, weights):
    """A sum over 3 x 3 shifted copies of what is padded by zeros."""
    height, width = images.shape[1:3]
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return sum(
        padded[:, y : y + height, x : x + width] @ weights[y, x]
        for y in range(3)
        for x in range(3)
    )


@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "filters"),
    [
        (1, 1, 1, 32, 32),  # Less than a tile.
        (2, 4, 8, 32, 64),  # Tiles that fit.
        (3, 5, 6, 96, 32),  # Tiles that reach beyond.
        (2, 7, 7, 512, 512),
        (2, 14, 14, 256, 256),
        (9, 13, 50, 64, 32),  # Several blocks, the last one not full,
        (8, 56, 56, 64, 64),  # and several chunks.
    ],
)
def test_it_equals_the_definition(batch, height, width, channels, filters):
    images = convolving.draw(batch, height, width, channels)
    weights = convolving.draw(3, 3, channels, filters, seed=1)
    upstream = convolving.draw(batch, height, width, filters, seed=2)
    found = convolving.all_of(winograd.convolve, images, weights, upstream)
    exact = (tf.cast(x, tf.float64) for x in (images, weights, upstream))
    expected = convolving.all_of(_by_definition, *exact)
    assert max(convolving.distances(found, expected)) < 5e-6


class _Tiles(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("height", "width", "down", "across", "count")
    )


class _Panels(ctypes.Structure):
    _fields_ = (("rows", ctypes.c_int64), ("columns", ctypes.c_int64))

    @property
    def point_stride(self):
        return self.rows * self.columns + 16

    def points(self):
        return np.zeros(36 * self.point_stride, np.float32)


def _results_of_blocks(name, images, weights, upstream):
    """A convolution and its gradients by what winograd_blocks.h declares."""
    library = ctypes.CDLL(str(build.library("winograd")))
    table = (ctypes.c_void_p * 9).in_dll(
        library, f"_ZN12hvd_imagenet8winograd{len(name)}{name}E"
    )
    panel = table[0]

    def run(number, *arguments):
        given, kinds = [], []
        for value in arguments:
            kind = type(value)
            if isinstance(value, np.ndarray):
                value, kind = value.ctypes.data, ctypes.c_void_p
            elif isinstance(value, int):
                kind = ctypes.c_int64
            elif isinstance(value, _Tiles):
                value, kind = ctypes.byref(value), ctypes.c_void_p
            given.append(value)
            kinds.append(kind)
        ctypes.CFUNCTYPE(None, *kinds)(table[number])(*given)

    batch, height, width, channels = images.shape
    filters = weights.shape[3]
    down, across = -(-height // 4), -(-width // 4)
    count = batch * down * across
    tiles = _Tiles(height, width, down, across, count)

    def at(points, of, point):
        return points[point * of.point_stride :]

    def convolution(transform, images, channels, filters):
        of_weights = _Panels(channels, filters)
        points = of_weights.points()
        run(transform, of_weights, 0, channels, weights, points)
        of_windows, of_sums = _Panels(count, channels), _Panels(count, filters)
        windows, sums = of_windows.points(), of_sums.points()
        run(3, tiles, 0, count, images, of_windows, 0, windows)
        for point in range(36):
            run(
                *(5, count, of_windows, at(windows, of_windows, point)),
                *(of_weights, at(points, of_weights, point)),
                *(of_sums, at(sums, of_sums, point)),
            )
        made = np.zeros([batch, height, width, filters], np.float32)
        run(7, tiles, 0, count, of_sums, 0, sums, made)
        return made

    def by_weights():
        of_windows, of_upstreams = (
            _Panels(count, channels),
            _Panels(count, filters),
        )
        windows, upstreams = of_windows.points(), of_upstreams.points()
        run(3, tiles, 0, count, images, of_windows, 0, windows)
        run(4, tiles, 0, count, upstream, of_upstreams, 0, upstreams)
        of_sums = _Panels(channels, filters)
        sums = of_sums.points()
        for point in range(36):
            for number in range(channels // panel):
                run(
                    *(6, count, of_windows, at(windows, of_windows, point)),
                    *(of_upstreams, at(upstreams, of_upstreams, point)),
                    *(number, 0, of_sums, at(sums, of_sums, point)),
                )
        made = np.zeros_like(weights)
        run(8, of_sums, 0, channels, sums, made)
        return made

    return [
        convolution(1, images, channels, filters),
        convolution(2, upstream, filters, channels),
        by_weights(),
    ]


@pytest.mark.parametrize(
    ("name", "flag"),
    [("kGeneric", ""), ("kAvx2", "avx2"), ("kAvx512", "avx512vl")],
)
def test_blocks_are_right_on_every_processor(name, flag):
    if flag and not processor.has(flag):
        pytest.skip(f"this processor has no {flag}")
    images = convolving.draw(2, 6, 9, 64)
    weights = convolving.draw(3, 3, 64, 32, seed=1)
    upstream = convolving.draw(2, 6, 9, 32, seed=2)
    inputs = (images, weights, upstream)
    found = _results_of_blocks(name, *(x.numpy() for x in inputs))
    expected = convolving.all_of(
        _by_definition, *(tf.cast(x, tf.float64) for x in inputs)
    )
    assert max(convolving.distances(found, expected)) < 5e-6


def test_the_numbers_are_the_same_from_any_number_of_threads(tmp_path):
    # With more of them than blocks, they share the points.
    convolving.assert_threads_make_no_difference(
        tmp_path, winograd.__name__, side=3, threads=(1, 3, 16)
    )


def test_an_image_is_the_same_in_any_batch():
    images = convolving.draw(11, 14, 14, 32)
    weights = convolving.draw(3, 3, 32, 32, seed=1)
    together = winograd.convolve(images, weights)
    for number in (0, 5, 10):
        alone = winograd.convolve(images[number : number + 1], weights)
        np.testing.assert_array_equal(alone[0], together[number])


def test_what_is_no_number_is_not_lost():
    images = convolving.draw(1, 12, 12, 32).numpy()
    images[0, 6, 5, 3] = np.nan
    made = winograd.convolve(images, convolving.draw(3, 3, 32, 32)).numpy()
    assert np.isnan(made[0, 5:8, 4:7]).all()
    # In windows that do not see it nothing changes.
    assert np.isfinite(made[0, 8:, 8:]).all()


@pytest.mark.parametrize(
    ("images", "weights", "words"),
    [
        ((2, 4, 32), (3, 3, 32, 32), "rank 4"),
        ((1, 4, 4, 48), (3, 3, 48, 32), "a multiple of 32"),
        ((1, 4, 4, 32), (3, 3, 64, 32), "do not fit"),
        ((1, 4, 4, 32), (3, 3, 32, 40), "do not fit"),
        ((1, 4, 4, 32), (1, 1, 32, 32), "do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(images, weights, words):
    with pytest.raises(
        (tf.errors.InvalidArgumentError, ValueError), match=words
    ):
        tf.function(winograd.convolve)(tf.zeros(images), tf.zeros(weights))


def test_gradients_of_other_shapes_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="upstream must"):
        winograd.load().hvd_imagenet_winograd_by_weights(
            images=tf.zeros([1, 4, 4, 32]), upstream=tf.zeros([1, 4, 5, 32])
        )


def test_it_is_differentiable_once():
    images, weights = (
        convolving.draw(1, 4, 4, 32),
        convolving.draw(3, 3, 32, 32),
    )
    with tf.GradientTape() as outer:
        outer.watch(images)
        with tf.GradientTape() as inner:
            inner.watch(images)
            made = winograd.convolve(images, weights) ** 2
        first = inner.gradient(made, images)
    with pytest.raises(LookupError, match="differentiable once"):
        outer.gradient(first, images)


# --- In a layer. ---


_ARGUMENTS = {"kernel_size": 3, "padding": "same", "filters": 64}


@pytest.fixture
def without_amx(monkeypatch):
    """As where there is none, which has all convolutions."""
    monkeypatch.setattr(amx, "works_for", lambda dtype: False)


def _kinds(**changes):
    shape = (4, 16, 16, 32)
    return convolving.kinds(**{"shape": shape, **_ARGUMENTS, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_bias": False},
        {"shape": (16, 7, 7, 32)},
        {"shape": (32, 56, 56, 64), "filters": 32},
    ],
)
def test_layers_are_made_by_it(without_amx, changes):
    assert _OPERATIONS <= _kinds(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "tensorflow"},
        {"kernel_size": 1},
        {"kernel_size": 5},
        {"strides": 2},
        {"padding": "valid"},
        {"dilation_rate": 2},
        {"groups": 2},
        {"filters": 40},
        {"shape": (4, 16, 16, 20)},
        {"shape": (3, 16, 16, 32)},  # Too few tiles,
        {"shape": (64, 2, 2, 32)},  # or too small a part of them.
        {"signature": (None, 16, 16, 32)},
        {"signature": (4, None, None, 32)},
        {"dtype": "mixed_bfloat16"},
    ],
)
def test_other_layers_are_not(without_amx, changes):
    assert not _OPERATIONS & _kinds(**changes)


def test_without_the_operation_tensorflow_takes_over(monkeypatch):
    def missing(name):
        raise loading.MissingKernelError(name)

    monkeypatch.setattr(loading, "operations", missing)
    for compiled in (amx, winograd):
        compiled.load.cache_clear()
    try:
        assert not winograd.works_for("float32")
        assert not _OPERATIONS & _kinds()
        assert Convolution(32, 3).supports_jit
    finally:
        monkeypatch.undo()
        for compiled in (amx, winograd):
            compiled.load.cache_clear()
    assert not Convolution(32, 3).supports_jit
    assert Convolution(32, 3, algorithm="tensorflow").supports_jit


def test_gpus_have_their_own(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    assert not winograd.works_for("float32")


def test_a_network_learns_the_same_by_it(without_amx):
    # 3 blocks each of stages 1 and 2, forwards and by images; the others have
    # images of one tile.
    convolving.assert_networks_learn_the_same(16, "HvdImagenetWinograd", 12)
