"""Half precision with sums in float32, all ranks simulated in one process."""

import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import parts
from hvd_imagenet.world import World


def _averages(by_rank, dtype=tf.float16):
    """What each rank has after the exchange of its list of gradients."""
    size = len(by_rank)
    exchange = parts.PartExchange(
        dtype=dtype, world_size=size, alltoall=None, allgather=None
    )
    sent = [np.split(exchange.pack(own).numpy(), size) for own in by_rank]
    means = [
        exchange.mean(np.concatenate([of[rank] for of in sent])).numpy()
        for rank in range(size)
    ]
    return exchange.unpack(tf.constant(np.concatenate(means)), by_rank[0])


def _gradients(rank, scale=1.0):
    random = np.random.default_rng(rank)
    shapes = ((3, 3, 2, 5), (7,), (), (11, 13))
    return [
        tf.constant(random.normal(0, scale, shape), tf.float32)
        for shape in shapes
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_the_mean_is_rounded_twice_at_any_world(size, dtype):
    by_rank = [_gradients(rank) for rank in range(size)]
    bits = 10 if dtype == tf.float16 else 7
    for number, mean in enumerate(_averages(by_rank, dtype)):
        exact = np.mean([own[number] for own in by_rank], axis=0)
        largest = np.max(np.abs([own[number] for own in by_rank]), axis=0)
        assert mean.shape == exact.shape
        assert mean.dtype == tf.float32
        # Half a unit in the last place when sent, and again for the mean.
        assert np.all(np.abs(mean - exact) <= 2 * largest * 2.0 ** -(bits + 1))


def test_a_thousand_ranks_do_not_overflow_or_stall():
    # A sum in float16 would be infinite, or stop growing at 2,048 times.
    exchange = parts.PartExchange(
        dtype=tf.float16, world_size=4_096, alltoall=None, allgather=None
    )
    for value in (60_000.0, 1.0, 2.0**-14):
        sent = np.full(5, value, np.float16)
        received = tf.constant(np.tile(sent, 4_096).view(np.uint16))
        mean = exchange.mean(received).numpy().view(np.float16)
        np.testing.assert_array_equal(mean, sent)


def test_what_is_not_finite_reaches_all_ranks():
    by_rank = [_gradients(rank) for rank in range(3)]
    by_rank[1][1] = tf.constant([np.inf, -np.inf, np.nan, 1, 1, 1, 1e5])
    mean = _averages(by_rank)[1].numpy()
    np.testing.assert_array_equal(mean[[0, 1]], [np.inf, -np.inf])
    assert np.isnan(mean[2])
    assert np.isinf(mean[6])
    assert np.isfinite(mean[3:6]).all()


def test_several_hosts_sum_float16_in_an_allreduce():
    for world in (World(size=2, local_size=1), World(size=4, local_size=2)):
        assert not parts.pays("fp16", world)
        assert parts.pays("bf16", world)
    assert parts.pays("fp16", World(size=2, local_size=2))


def test_gradients_travel_in_a_few_parcels_the_last_first():
    shapes = [tf.TensorShape([2_000_000])] * 10 + [tf.TensorShape([])]
    found = list(parts.buckets(shapes))
    assert [number for bucket in found for number in bucket] == [
        *range(10, -1, -1)
    ]
    sizes = [4 * sum(n < 10 for n in bucket) for bucket in found]
    assert sizes == [20, 20]  # Megabytes: at least 16 MiB each.
    assert list(parts.buckets([])) == []


def test_the_exchange_goes_through_both_transports():
    sent = []

    def transport(name):
        def pass_on(values):
            sent.append((name, values.dtype))
            return values

        return pass_on

    exchange = parts.PartExchange(
        dtype=tf.bfloat16,
        world_size=1,
        alltoall=transport("alltoall"),
        allgather=transport("allgather"),
    )
    given = _gradients(0)
    means = exchange.average(given)
    for one, other in zip(given, means, strict=True):
        np.testing.assert_allclose(one, other, rtol=2.0**-8)
    # As bits, since a transport may not know bfloat16.
    assert sent == [("alltoall", tf.uint16), ("allgather", tf.uint16)]
