"""Means over the processes of a host, in memory that they share."""

import concurrent.futures
import ctypes
import os
import time

import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import shared_memory
from hvd_imagenet.kernels import build, processor, shared_mean
from hvd_imagenet.processes import Processes
from hvd_imagenet.shared_memory import SharedMemory

_DTYPES = (tf.float32, tf.float16, tf.bfloat16)
# Of many chunks, of one number, of none, and of no even part of a line.
_SHAPES = ([1500, 700], [1], [0, 3], [7, 11], [])


class _Ranks:
    """Ranks of one host, each a thread; they open the memory by its name."""

    def __init__(self, folder, count, length=2**20, timeout_seconds=60.0):
        path = folder / "memory"
        path.write_bytes(bytes(length))
        self.descriptors = [os.open(path, os.O_RDWR) for _ in range(count)]
        self.members = [
            SharedMemory(descriptor, rank, count, timeout_seconds)
            for rank, descriptor in enumerate(self.descriptors)
        ]
        self._threads = concurrent.futures.ThreadPoolExecutor(count)

    def start(self, rank, gradients, numbers=(), dtype=tf.float32):
        return self._threads.submit(
            self.members[rank].exchange,
            [tf.constant(gradient) for gradient in gradients],
            tf.constant(np.float32(numbers)),
            dtype,
        )

    def leave(self, rank):
        """As a process that ends."""
        os.close(self.descriptors[rank])


def _gradients(rank, scale=1.0):
    random = np.random.default_rng(rank)
    return [np.float32(scale * random.normal(size=shape)) for shape in _SHAPES]


def _rounded(values, dtype):
    return values.astype(dtype.as_numpy_dtype).astype(np.float32)


@pytest.mark.parametrize("dtype", _DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_all_ranks_have_the_mean(tmp_path, count, dtype):
    ranks = _Ranks(tmp_path, count)
    for step in range(3):
        # Other numbers in every step, so that nothing old is taken for new.
        given = [_gradients(rank + 10 * step) for rank in range(count)]
        done = [
            ranks.start(rank, given[rank], [1.0, rank], dtype)
            for rank in range(count)
        ]
        results = [each.result(timeout=60) for each in done]
        for means, sums in results:
            np.testing.assert_array_equal(sums, [count, sum(range(count))])
            for number, mean in enumerate(means):
                np.testing.assert_array_equal(mean, results[0][0][number])
                total = np.float32(0)
                for rank in range(count):
                    total = total + _rounded(given[rank][number], dtype)
                right = _rounded(total * np.float32(1 / count), dtype)
                np.testing.assert_array_equal(mean, right)


def test_every_half_precision_number_is_itself(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16)
    for dtype in (tf.float16, tf.bfloat16):
        exact = bits.view(dtype.as_numpy_dtype).astype(np.float32)
        is_subnormal = (exact != 0) & (np.abs(exact) < 2.0**-126)
        # TensorFlow's threads take subnormal float32 numbers for zero.
        exact = np.where(is_subnormal, 0, exact)
        folder = tmp_path / dtype.name
        folder.mkdir()
        ranks = _Ranks(folder, 2)
        done = [ranks.start(rank, [exact], [], dtype) for rank in range(2)]
        for each in done:
            (mean,), _ = each.result(timeout=60)
            # The sum is float32's, which has no room for bfloat16's largest.
            with np.errstate(over="ignore", invalid="ignore"):
                total = exact + exact
            np.testing.assert_array_equal(
                mean, np.where(np.isinf(total), total, exact)
            )


def test_rounding_is_to_the_nearest_of_two_the_even_one(tmp_path):
    # Between two neighbours, and next to where float16 ends and begins.
    random = np.random.default_rng(0).normal(size=100_000)
    values = np.float32(random * np.logspace(-9, 6, len(random)))
    edges = [65504, 65519.99, 65520, 2.0**-24, 2.0**-25, 2.0**-25 * 1.01]
    ties = np.float32(1 + np.arange(64) * 2.0**-12)
    values = np.concatenate([values, np.float32(edges), ties, -ties])
    for dtype in (tf.float16, tf.bfloat16):
        with np.errstate(over="ignore"):
            right = _rounded(values, dtype)
        folder = tmp_path / dtype.name
        folder.mkdir()
        done = _Ranks(folder, 1).start(0, [values], [], dtype)
        (mean,), _ = done.result(timeout=60)
        # The one rank's own number is rounded as what others would read.
        np.testing.assert_array_equal(mean, right)


def test_what_is_infinite_or_no_number_stays_so(tmp_path):
    for dtype in _DTYPES:
        folder = tmp_path / dtype.name
        folder.mkdir()
        ranks = _Ranks(folder, 2)
        own = [
            [np.float32([np.inf, np.nan, 1, -np.inf])],
            [np.float32([1, 1, np.nan, -np.inf])],
        ]
        done = [ranks.start(rank, own[rank], [], dtype) for rank in range(2)]
        for each in done:
            (mean,), _ = each.result(timeout=60)
            np.testing.assert_array_equal(
                mean, [np.inf, np.nan, np.nan, -np.inf]
            )


class _Contributions(ctypes.Structure):
    _fields_ = (
        ("own", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("rank", ctypes.c_int),
        ("ranks", ctypes.c_int),
    )


def _results_of_blocks(name, position, values):
    """What a processor's functions write, read and average, as bytes."""
    shared_mean.load()
    library = ctypes.CDLL(str(build.library("shared_mean")))
    symbol = f"_ZN12hvd_imagenet11shared_mean{len(name)}{name}E"
    places = (ctypes.c_void_p * 9).in_dll(library, symbol)
    write, read, mean = places[3 * position : 3 * position + 3]
    count = ctypes.c_int64(len(values))
    kept = np.zeros((2, len(values)), np.float32)
    means = np.zeros_like(values)
    given, half = np.zeros_like(values), values / 2
    pointer = ctypes.c_void_p

    def call(place, *arguments, kinds=(pointer, pointer)):
        kinds = (ctypes.c_int64, *kinds)
        ctypes.CFUNCTYPE(None, *kinds)(place)(count, *arguments)

    call(write, values.ctypes.data, kept[0].ctypes.data)
    call(read, kept[0].ctypes.data, given.ctypes.data)
    of = _Contributions(half.ctypes.data, kept.ctypes.data, 0, 1, 2)
    call(
        mean,
        of,
        kept[1].ctypes.data,
        means.ctypes.data,
        kinds=(_Contributions, pointer, pointer),
    )
    return [kept.tobytes(), given.tobytes(), means.tobytes()]


@pytest.mark.parametrize("position", range(3))
def test_blocks_are_the_same_on_every_processor(position):
    if not processor.has("avx2"):
        pytest.skip("this processor has no avx2")
    random = np.random.default_rng(0).normal(size=3001)
    values = np.float32(random * np.logspace(-9, 6, len(random)))
    values[:4] = [np.inf, -np.inf, 0.0, -0.0]
    for count in (1, 8, 1024, 3001):
        found = _results_of_blocks("kAvx2", position, values[:count])
        assert found == _results_of_blocks("kGeneric", position, values[:count])


def test_a_rank_that_has_gone_is_named(tmp_path):
    ranks = _Ranks(tmp_path, 3)
    waiting = [ranks.start(rank, _gradients(rank)) for rank in (0, 2)]
    ranks.leave(1)
    for each in waiting:
        with pytest.raises(tf.errors.AbortedError, match="rank 1 has gone"):
            each.result(timeout=10)


def test_who_waits_learns_of_it_within_seconds(tmp_path):
    ranks = _Ranks(tmp_path, 2)
    waiting = ranks.start(0, _gradients(0))
    time.sleep(0.5)
    assert not waiting.done()
    ranks.leave(1)
    with pytest.raises(tf.errors.AbortedError, match="rank 1 has gone") as told:
        waiting.result(timeout=5)
    assert shared_memory.is_failure(told.value)


def test_a_rank_that_does_not_come_is_named(tmp_path):
    ranks = _Ranks(tmp_path, 2, timeout_seconds=1.5)
    waiting = ranks.start(0, _gradients(0))
    with pytest.raises(
        tf.errors.DeadlineExceededError, match=r"rank 1 has not come.*1\.5 sec"
    ):
        waiting.result(timeout=10)
    # Who gave up does not take part any more, and says so to who comes late.
    with pytest.raises(tf.errors.AbortedError, match="rank 0 has given up"):
        ranks.start(1, _gradients(1)).result(timeout=10)


def test_ranks_with_other_gradients_are_refused(tmp_path):
    ranks = _Ranks(tmp_path, 2)
    first = ranks.start(0, [np.zeros(3, np.float32)])
    second = ranks.start(1, [np.zeros(4, np.float32)])
    for each in (first, second):
        with pytest.raises(tf.errors.InvalidArgumentError, match="averages"):
            each.result(timeout=10)


def test_too_many_numbers_are_refused(tmp_path):
    ranks = _Ranks(tmp_path, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="17 numbers are"):
        ranks.start(0, _gradients(0), range(17)).result(timeout=10)


def test_memory_that_is_too_small_is_refused(tmp_path):
    ranks = _Ranks(tmp_path, 2, length=4096 * 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too few for 2"):
        ranks.start(0, _gradients(0)).result(timeout=10)


def test_a_place_is_taken_once(tmp_path):
    ranks = _Ranks(tmp_path, 2)
    again = os.open(tmp_path / "memory", os.O_RDWR)
    with pytest.raises(OSError, match="another has its place"):
        SharedMemory(again, 1, 2)
    del ranks


def test_memory_is_left_nowhere(tmp_path):
    memory, problem = shared_memory.join(Processes(), tmp_path)
    assert memory is not None
    assert problem == ""
    assert list(tmp_path.iterdir()) == []
    (mean,), sums = memory.exchange(
        [tf.constant([1.0, 2.0])], tf.constant([3.0]), tf.float32
    )
    assert mean.numpy().tolist() == [1.0, 2.0]
    assert sums.numpy().tolist() == [3.0]


def test_no_room_is_told(tmp_path, monkeypatch):
    def full(descriptor, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    memory, problem = shared_memory.join(Processes(), tmp_path)
    assert memory is None
    assert problem == f"{tmp_path} has no 32 MiB: No space left on device"
    assert list(tmp_path.iterdir()) == []
