"""Half precision on the wire, with the ring of ranks simulated in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import wire


def _ring(sent):
    """Sum over ranks, the first axis, one after another in the type sent."""
    total = sent[0]
    with np.errstate(over="ignore"):
        for one in sent[1:]:
            total = total + one
    assert total.dtype == sent.dtype
    return total


def _pairwise(sent):
    """Sum over ranks as a tree has it."""
    while len(sent) > 1:
        sent = sent[0::2] + sent[1::2]
    return sent[0]


def _mean(form, gradients, add=_ring):
    """What every rank has after the exchange."""
    sent = form.pack(tf.constant(gradients)).numpy()
    assert sent.dtype == form.dtype.as_numpy_dtype
    mean = form.unpack(tf.constant(add(sent)), tf.float32)
    assert mean.dtype == tf.float32
    return mean.numpy()


def _fp16(world_size, predivision):
    return wire.Format(
        dtype=tf.float16, predivision=predivision, world_size=world_size
    )


def test_predivision_is_the_root_of_the_world_as_a_power_of_two():
    divisors = {1: 1, 2: 2, 3: 2, 4: 2, 5: 4, 16: 4, 17: 8, 256: 16}
    divisors |= {1000: 32, 1024: 32, 1025: 64, 2048: 64}
    assert {n: wire.fp16_predivision(n) for n in divisors} == divisors


@pytest.mark.parametrize("world_size", [1024, 2048])
@pytest.mark.parametrize("add", [_ring, _pairwise])
def test_gradients_up_to_1000_do_not_overflow(world_size, add):
    # The same on all ranks, and others.
    gradients = np.empty([world_size, 600], np.float32)
    gradients[:, :300] = np.linspace(500, 1000, 300)
    gradients[:, 300:] = np.random.default_rng(0).uniform(
        -1000, 1000, [world_size, 300]
    )
    form = wire.make_format("fp16", world_size)
    mean = _mean(form, gradients, add)
    assert np.all(np.isfinite(mean))
    # A ring rounds equal numbers the same way again and again.
    np.testing.assert_allclose(
        mean, gradients.mean(0), rtol=0.25 if add is _ring else 1e-3, atol=1.0
    )
    # The division is what does it.
    with np.errstate(over="ignore"):
        undivided = _mean(_fp16(world_size, 1), gradients, add)
    assert np.all(np.isinf(undivided[:300]))


def test_small_gradients_survive_the_division():
    rng = np.random.default_rng(0)
    for deviation in (3e-4, 3e-5):
        mean = rng.normal(0, deviation / 30, 400)
        gradients = rng.normal(mean, deviation, [1024, 400])
        gradients = gradients.astype(np.float32)

        def error(form, gradients=gradients):
            exact = gradients.mean(0, dtype=np.float64)
            wrong = _mean(form, gradients) - exact
            return np.sqrt(np.mean(wrong**2) / np.mean(exact**2))

        ours = error(wire.make_format("fp16", 1024))
        assert ours < 0.03
        # Close to no division, far from one by the whole world.
        assert ours < 4 * error(_fp16(1024, 1))
        assert 5 * ours < error(_fp16(1024, 1024))


def test_two_ranks_lose_no_more_than_rounding():
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-8, 4, [1, 5000])
    gradients = (sizes * rng.normal(size=[2, 5000])).astype(np.float32)
    mean = _mean(wire.make_format("fp16", 2), gradients)
    # Two roundings of normal numbers, or one of subnormal ones.
    allowed = np.abs(gradients).mean(0) * 2.0**-10 + 2.0**-24
    assert np.all(np.abs(mean - gradients.mean(0)) <= allowed)


def test_a_world_that_is_no_power_of_two_has_its_mean():
    gradients = np.repeat(np.float32([[1.0, -3.0, 0.5]]), 6, axis=0)
    for compression in ("fp16", "bf16"):
        form = wire.make_format(compression, 6)
        np.testing.assert_allclose(
            _mean(form, gradients), gradients[0], rtol=1e-6
        )


@pytest.mark.parametrize("compression", ["fp16", "bf16"])
def test_what_is_not_finite_stays_so(compression):
    gradients = np.ones([4, 4], np.float32)
    gradients[1] = [np.inf, -np.inf, np.nan, 1]
    mean = _mean(wire.make_format(compression, 4), gradients)
    np.testing.assert_array_equal(mean, [np.inf, -np.inf, np.nan, 1])


def test_a_gradient_beyond_float16_is_inf():
    # Loss scaling has to see it, not a number that was cut off.
    mean = _mean(wire.make_format("fp16", 2), np.float32([[2e5], [0]]))
    assert np.isinf(mean)


def test_bfloat16_has_room_without_a_division():
    gradients = np.repeat(np.float32([[2.0**100, 2.0**-100]]), 64, axis=0)
    form = wire.make_format("bf16", 64)
    assert form.predivision == 1
    np.testing.assert_array_equal(_mean(form, gradients), gradients[0])


def test_without_compression_there_is_no_format():
    assert wire.make_format("none", 2) is None
