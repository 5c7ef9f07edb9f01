"""The compiled batch normalization against float64 and TensorFlow's own."""

import ctypes
import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet.kernels import batch_norm, build, loading, processor
from hvd_imagenet.normalization import FusedBatchNormalization

pytestmark = pytest.mark.core

_EPSILON = 1e-3
_KINDS = list(itertools.product([False, True], [False, True]))


def _inputs(shape, dtype="float32", seed=0, offset=2.0):
    """Images, gamma, beta, shortcut, upstream; gammas of both signs."""
    generator = np.random.default_rng(seed)
    channels = shape[-1]

    def draw(shape, mean, deviation):
        return tf.constant(generator.normal(mean, deviation, shape), tf.float32)

    images = tf.cast(draw(shape, offset, 3.0), dtype)
    gamma, beta = draw([channels], 0.5, 1.0), draw([channels], 0.0, 1.0)
    shortcut = tf.cast(draw(shape, 0.0, 1.0), dtype)
    upstream = tf.cast(draw(shape, 0.1, 1.0), dtype)
    return images, gamma, beta, shortcut, upstream


def _by_operation(inputs, has_shortcut, relu):
    """Outputs, mean, variance, and gradients by all inputs."""
    images, gamma, beta, shortcut, upstream = inputs
    sources = [images, gamma, beta, *([shortcut] if has_shortcut else [])]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        made = batch_norm.normalize(
            images,
            gamma,
            beta,
            epsilon=_EPSILON,
            shortcut=shortcut if has_shortcut else None,
            relu=relu,
        )
    (outputs,) = made.outputs
    gradients = tape.gradient(outputs, sources, upstream)
    return [outputs, made.mean, made.variance, *gradients]


def _by_formula(inputs, has_shortcut, relu):
    """The same in float64, without any operation of batch normalization."""
    images, gamma, beta, shortcut, upstream = (
        tf.cast(each, tf.float64) for each in inputs
    )
    sources = [images, gamma, beta, *([shortcut] if has_shortcut else [])]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        axes = list(range(images.shape.rank - 1))
        mean, variance = tf.nn.moments(images, axes)
        outputs = (images - mean) / tf.sqrt(variance + _EPSILON) * gamma + beta
        if has_shortcut:
            outputs += shortcut
        if relu:
            outputs = tf.nn.relu(outputs)
    count = np.prod(images.shape[:-1])
    unbiased = variance * count / max(count - 1, 1)
    gradients = tape.gradient(outputs, sources, upstream)
    return [outputs, mean, unbiased, *gradients]


def _assert_close(found, expected, tolerance):
    for mine, exact in zip(found, expected, strict=True):
        exact = exact.numpy()
        scale = np.abs(exact).max() + 1e-30
        np.testing.assert_allclose(
            tf.cast(mine, tf.float64) / scale, exact / scale, atol=tolerance
        )


@pytest.mark.parametrize(("has_shortcut", "relu"), _KINDS)
@pytest.mark.parametrize(
    "shape",
    [
        (3, 2),  # Fewer rows than are summed at once, and fewer channels
        (1, 1, 1, 5),  # than a vector has.
        (3, 5, 7, 33),
        (5, 64, 64, 64),  # Several blocks, the last one not full.
        (4, 7, 7, 2048),
        (2, 3, 40_000),  # A row is more than a block.
    ],
)
def test_float32_equals_the_formula(shape, has_shortcut, relu):
    inputs = _inputs(shape)
    found = _by_operation(inputs, has_shortcut, relu)
    expected = _by_formula(inputs, has_shortcut, relu)
    _assert_close(found, expected, 1e-5)


@pytest.mark.parametrize(("has_shortcut", "relu"), _KINDS)
def test_nothing_is_overwritten_that_is_needed(has_shortcut, relu):
    """Within a graph gradients are written in the place of their inputs."""
    inputs = _inputs((4, 12, 12, 40))

    def loss(normalize, images, gamma, beta, shortcut):
        added = tf.cos(shortcut) if has_shortcut else None
        outputs = normalize(tf.sin(images), gamma, beta, added)
        return tf.reduce_sum(tf.sin(outputs) * tf.cast(images, outputs.dtype))

    def ours(images, gamma, beta, added):
        made = batch_norm.normalize(
            images, gamma, beta, epsilon=_EPSILON, shortcut=added, relu=relu
        )
        return made.outputs[0]

    def formula(images, gamma, beta, added):
        mean, variance = tf.nn.moments(images, [0, 1, 2])
        outputs = (images - mean) / tf.sqrt(variance + _EPSILON) * gamma + beta
        outputs = outputs if added is None else outputs + added
        return tf.nn.relu(outputs) if relu else outputs

    @tf.function
    def gradients(function, *sources):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = loss(function, *sources)
        return tape.gradient(value, sources[: 4 if has_shortcut else 3])

    sources = inputs[:4]
    exact = gradients(formula, *(tf.cast(s, tf.float64) for s in sources))
    _assert_close(gradients(ours, *sources), exact, 1e-4)


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize(("has_shortcut", "relu"), _KINDS)
def test_gradients_of_copies_are_summed(has_shortcut, relu, copies):
    images, gamma, beta, shortcut, upstream = _inputs((3, 9, 9, 20))
    sources = [images, gamma, beta, shortcut][: 4 if has_shortcut else 3]

    @tf.function
    def both(*sources):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(sources)
            made = batch_norm.normalize(
                *sources[:3],
                epsilon=_EPSILON,
                shortcut=sources[3] if has_shortcut else None,
                relu=relu,
                copies=copies,
            )
            one = tf.reduce_sum(copies * made.outputs[0] * upstream)
            all_ = sum(tf.reduce_sum(o * upstream) for o in made.outputs)
        return tape.gradient(one, sources), tape.gradient(all_, sources)

    for mine, exact in zip(*reversed(both(*sources)), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("has_shortcut", "relu"), _KINDS)
def test_bfloat16_is_rounded_once(has_shortcut, relu):
    inputs = _inputs((8, 14, 14, 48), "bfloat16")
    found = _by_operation(inputs, has_shortcut, relu)
    expected = _by_formula(inputs, has_shortcut, relu)
    assert [each.dtype for each in found] == [
        *(tf.bfloat16, tf.float32, tf.float32),
        *(tf.bfloat16, tf.float32, tf.float32),
        *([tf.bfloat16] if has_shortcut else []),
    ]
    # Statistics and parameters' gradients are not rounded to it at all.
    for number in (1, 2, 4, 5):
        _assert_close([found[number]], [expected[number]], 1e-5)
    exact = tf.cast(expected[0], tf.float32)
    outputs = tf.cast(exact, tf.bfloat16)
    # But where float32 and float64 round to different neighbours.
    assert np.mean(outputs != found[0]) < 1e-3
    _assert_close([found[3]], [expected[3]], 2**-8)
    if has_shortcut:
        gradient = tf.cast(expected[6], tf.bfloat16)
        assert np.mean(gradient != found[6]) < 1e-3


def test_a_large_mean_leaves_the_variance():
    """The mean of the squares less that of the mean would be 0.5 apart."""
    inputs = _inputs((16, 32, 32, 8), offset=3000.0)
    found = _by_operation(inputs, False, False)
    expected = _by_formula(inputs, False, False)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-4)


def test_rounding_to_bfloat16_is_tensorflows():
    """Ties to even, what overflows, what is no number."""
    values = np.array(
        [
            *(1.0, -1.0, 1.00390625, 1.01171875, -1.00390625, 3.4e38),
            *(1e-37, 65504.0, np.inf, -np.inf, np.nan),
        ],
        np.float32,
    )
    # Of one image each channel is its mean: what comes out is beta.
    images = tf.zeros([1, 1, 1, len(values)], tf.bfloat16)
    made = batch_norm.normalize(
        images, tf.ones([len(values)]), tf.constant(values), epsilon=1.0
    )
    expected = tf.cast(values, tf.bfloat16)
    np.testing.assert_array_equal(
        tf.cast(made.outputs[0], tf.float32).numpy().ravel(),
        tf.cast(expected, tf.float32).numpy(),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_no_number_is_not_rectified_away(dtype):
    images, gamma, beta, shortcut, _ = _inputs((2, 4, 4, 20), dtype)
    images = tf.tensor_scatter_nd_update(
        images, [[0, 1, 2, 3]], tf.constant([np.nan], dtype)
    )
    for added in (None, shortcut):
        made = batch_norm.normalize(
            images, gamma, beta, epsilon=1e-3, shortcut=added, relu=True
        )
        bad = np.isnan(tf.cast(made.outputs[0], tf.float32).numpy())
        assert bad[..., 3].all()
        assert not np.delete(bad, 3, axis=-1).any()


class _Size(ctypes.Structure):
    _fields_ = (("rows", ctypes.c_int64), ("channels", ctypes.c_int64))


class _Channels(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("mean", "scale", "beta")
    )


def _block_functions(name, is_half):
    """What batch_norm_blocks.h declares, as functions of arrays."""
    library = ctypes.CDLL(str(build.library("batch_norm")))
    table = (ctypes.c_void_p * 22).in_dll(
        library, f"_ZN12hvd_imagenet{len(name)}{name}E"
    )
    places = table[11:] if is_half else table[:11]

    def function(place, of_channels):
        def call(size, *arrays):
            arguments = [
                None if a is None else a.ctypes.data_as(ctypes.c_void_p)
                for a in arrays
            ]
            kinds = [ctypes.c_void_p] * len(arguments)
            if of_channels is not None:
                at, channels = of_channels
                arguments.insert(
                    at, _Channels(*(c.ctypes.data for c in channels))
                )
                kinds.insert(at, _Channels)
            ctypes.CFUNCTYPE(None, _Size, *kinds)(place)(size, *arguments)

        return call

    return places, function


def _results_of_blocks(name, is_half, rows, channels):
    """All that the functions for a processor make of the same numbers."""
    generator = np.random.default_rng(0)

    def images():
        drawn = generator.normal(size=(rows, channels)).astype(np.float32)
        if is_half:
            return (drawn.view(np.uint32) >> 16).astype(np.uint16)
        return drawn

    def vector():
        return generator.normal(size=channels).astype(np.float32)

    size = _Size(rows, channels)
    x, upstream, other, shortcut, outputs = (images() for _ in range(5))
    of_channels = (vector(), vector(), vector())
    mean, slope = vector(), vector()
    places, function = _block_functions(name, is_half)
    results = []

    def run(place, at, *arrays, made):
        of = None if at is None else (at, of_channels)
        function(place, of)(size, *arrays, *made)
        results.extend(made)

    def blank(like):
        return np.zeros_like(like)

    run(places[0], None, x, made=[blank(mean), blank(mean)])
    for place, added in zip(
        places[1:5], (None, shortcut, None, shortcut), strict=True
    ):
        run(place, 2, x, added, made=[blank(x)])
    for number, place in enumerate(places[5:9]):
        made = [blank(mean), blank(mean), blank(x) if number > 1 else None]
        arrays = (upstream, other if number == 3 else None, x)
        arrays += (outputs if number > 1 else None,)
        run(place, 4, *arrays, made=made)
    for place in places[9:]:
        run(place, 2, upstream, x, mean, slope, made=[blank(x)])
    found = [each for each in results if each is not None]
    if is_half:
        found = [
            (each.astype(np.uint32) << 16).view(np.float32)
            if each.dtype == np.uint16
            else each
            for each in found
        ]
    return found


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize(
    ("name", "flag"), [("kAvx2", "avx2"), ("kAvx512", "avx512vl")]
)
def test_blocks_are_the_same_on_every_processor(name, flag, is_half):
    if not processor.has(flag):
        pytest.skip(f"this processor has no {flag}")
    for rows, channels in ((1, 1), (7, 16), (9, 100)):
        found = _results_of_blocks(name, is_half, rows, channels)
        plain = _results_of_blocks("kGeneric", is_half, rows, channels)
        assert len(found) == len(plain) == 18
        for mine, exact in zip(found, plain, strict=True):
            # But for fused multiplication and addition, and what that does to
            # the last digit of bfloat16.
            tolerance = 2**-7 if is_half else 1e-5
            np.testing.assert_allclose(
                mine, exact, rtol=tolerance, atol=tolerance
            )


_THREADS = """
import sys
import numpy as np
import tensorflow as tf
from hvd_imagenet.kernels import batch_norm

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
images = tf.random.stateless_normal([9, 50, 50, 64], [1, 2])
gamma, beta = tf.range(64.0), tf.ones([64])
with tf.GradientTape() as tape:
    tape.watch([images, gamma, beta])
    made = batch_norm.normalize(
        images, gamma, beta, epsilon=1e-5, shortcut=images[::-1], relu=True
    )
    loss = tf.reduce_mean(made.outputs[0] ** 2)
numbers = [*made.outputs, made.mean, made.variance]
numbers += tape.gradient(loss, [images, gamma, beta])
np.savez(sys.argv[2], *numbers)
"""


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": tf.zeros([3])}, "images must be"),
        ({"gamma": tf.zeros([4])}, r"gamma must be \[3\], not \[4\]"),
        ({"beta": tf.zeros([1, 3])}, r"beta must be \[3\]"),
        ({"shortcut": tf.zeros([2, 2])}, r"shortcut must be \[2,3\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, words):
    inputs = {
        "images": tf.zeros([2, 3]),
        "gamma": tf.ones([3]),
        "beta": tf.zeros([3]),
        **changes,
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        batch_norm.normalize(**inputs, epsilon=1e-3)


def _kinds(layer, images):
    @tf.function
    def step(images):
        return layer(images, training=True)

    graph = step.get_concrete_function(images).graph
    return {op.type for op in graph.get_operations()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_are_trained_by_it(dtype):
    images = tf.zeros([2, 3, 4, 5], dtype)
    policy = "float32" if dtype == "float32" else "mixed_bfloat16"
    kinds = _kinds(FusedBatchNormalization(relu=True, dtype=policy), images)
    assert "HvdImagenetBatchNorm" in kinds
    assert not kinds & {"FusedBatchNormV3", "Relu"}
    by_tensorflow = FusedBatchNormalization(
        relu=True, kernel="tensorflow", dtype=policy
    )
    kinds = _kinds(by_tensorflow, images)
    assert "HvdImagenetBatchNorm" not in kinds
    assert kinds >= {"FusedBatchNormV3", "Relu"}


def test_what_it_is_not_for_goes_to_tensorflow(monkeypatch):
    assert batch_norm.works_for("float32")
    assert not batch_norm.works_for("float16")
    assert FusedBatchNormalization(dtype="mixed_float16").supports_jit
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU"])
    assert not batch_norm.works_for("float32")


def test_keras_does_not_compile_it_by_xla():
    """Which is Keras's default where all layers can be."""
    inputs = keras.Input([2, 2, 4])
    model = keras.Model(inputs, FusedBatchNormalization()(inputs))
    model.compile("sgd", "mse")
    assert not model.jit_compile
    images = np.ones([8, 2, 2, 4])
    model.fit(images, images, verbose=0)


def test_without_it_there_is_tensorflows_own(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "library", lambda name: tmp_path / "none.so")
    batch_norm.load.cache_clear()
    try:
        with pytest.raises(loading.MissingKernelError, match="tools/setup"):
            batch_norm.load()
        images = tf.zeros([2, 3, 4, 5])
        assert "FusedBatchNormV3" in _kinds(FusedBatchNormalization(), images)
    finally:
        batch_norm.load.cache_clear()
