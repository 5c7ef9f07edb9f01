"""Numbers to float16 and back by the compiled operations: TensorFlow's bits."""

import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import wire
from hvd_imagenet.kernels import half, loading

pytestmark = pytest.mark.core

_FACTORS = (1.0, 0.5, 1.0 / 64, 3.0)


def _numbers() -> np.ndarray:
    """All float16 numbers, what is between them, and what float16 has not."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.sort(halves[np.isfinite(halves)].astype(np.float32))
    # To the even one of two neighbours, and just beside.
    between = (finite[1:] + finite[:-1]) / 2
    beside = [np.nextafter(between, np.float32(to)) for to in (-1e9, 1e9)]
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-30,
        65519.0,
        65520.0,
        3e38,
    ]
    return np.concatenate(
        [finite, between, *beside, np.array(special, np.float32)]
    )


def _bits(numbers: tf.Tensor) -> np.ndarray:
    found = numbers.numpy()
    kind = np.uint16 if found.dtype == np.float16 else np.uint32
    # What is not a number has many forms.
    return np.where(np.isnan(found), 0, found.view(kind))


@pytest.mark.parametrize("factor", _FACTORS)
def test_numbers_are_packed_as_tensorflow_does(factor):
    numbers = tf.constant(_numbers())
    found = half.pack(numbers, factor)
    expected = tf.cast(numbers * factor, tf.float16)
    np.testing.assert_array_equal(_bits(found), _bits(expected))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("factor", _FACTORS)
def test_numbers_are_unpacked_as_tensorflow_does(factor):
    packed = tf.constant(np.arange(2**16, dtype=np.uint16).view(np.float16))
    found = half.unpack(packed, factor)
    expected = tf.cast(packed, tf.float32) * factor
    np.testing.assert_array_equal(_bits(found), _bits(expected))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5, 1), (9, 4, 5, 1001)])
def test_shapes_stay(shape):
    numbers = tf.random.stateless_normal(shape, [0, 1])
    packed = tf.function(half.pack)(numbers, 0.25)
    assert packed.shape == shape
    expected = tf.cast(numbers * 0.25, tf.float16)
    np.testing.assert_array_equal(packed, expected)
    unpacked = tf.function(half.unpack)(packed, 4.0)
    np.testing.assert_array_equal(unpacked, tf.cast(expected, tf.float32) * 4.0)


def _kinds(dtype: tf.DType) -> set[str]:
    form = wire.make_format("fp16", 4)

    @tf.function(input_signature=[tf.TensorSpec([3], dtype)])
    def there_and_back(gradient):
        return form.unpack(form.pack(gradient), gradient.dtype)

    graph = there_and_back.get_concrete_function().graph
    return {operation.type for operation in graph.get_operations()}


_OPERATIONS = {"HvdImagenetPackHalf", "HvdImagenetUnpackHalf"}


def test_gradients_are_sent_by_it():
    assert _OPERATIONS <= _kinds(tf.float32)
    assert not _OPERATIONS & _kinds(tf.float64)


def test_without_the_operations_tensorflow_takes_over(monkeypatch):
    def missing(name):
        raise loading.MissingKernelError(name)

    monkeypatch.setattr(loading, "operations", missing)
    half.load.cache_clear()
    try:
        assert not _OPERATIONS & _kinds(tf.float32)
    finally:
        monkeypatch.undo()
        half.load.cache_clear()


def test_gpus_have_their_own(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    assert not half.works_for(tf.float32, tf.float16)
