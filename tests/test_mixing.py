"""Mixup and cutmix: what is drawn, and what becomes of images and labels."""

import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import mixing
from hvd_imagenet.config import DataConfig

_DRAWS = 4000


def _draws(seed=0, **alphas):
    data = DataConfig(**alphas)
    return np.stack([mixing.draw(data, seed, p) for p in range(_DRAWS)])


def _mix(drawn, *, batch=4, height=8, width=8, weights=None):
    """Mixes images of the values 1, 2, ... with the labels 10, 20, ..."""
    numbers = np.arange(1.0, batch + 1, dtype=np.float32)
    images = np.broadcast_to(
        numbers[:, None, None, None], (batch, height, width, 3)
    )
    mixed, (labels, shares) = mixing.mix(
        tf.constant(images),
        tf.constant(10 * numbers, tf.int32),
        tf.ones(batch) if weights is None else tf.constant(weights),
        tf.constant(drawn, tf.float32),
    )
    assert mixed.dtype == tf.float32
    return mixed.numpy(), labels.numpy().tolist(), shares.numpy()


def test_golden_mixup():
    mixed, labels, shares = _mix([0.25, 0.0, 1.0, 0.0, 1.0])
    assert labels == [40, 30, 20, 10]
    np.testing.assert_array_equal(shares, 0.25)
    for image, value in zip(mixed, (1.75, 2.25, 2.75, 3.25), strict=True):
        np.testing.assert_array_equal(image, value)


def test_golden_cutmix():
    # Rows 2 to 5 of 8 and columns 8 to 15 of 16, a quarter.
    mixed, labels, shares = _mix([1.0, 0.25, 0.75, 0.5, 1.0], width=16)
    assert labels == [40, 30, 20, 10]
    np.testing.assert_array_equal(shares, 0.25)
    for own, image in enumerate(mixed, start=1):
        expected = np.full((8, 16, 3), own, np.float32)
        expected[2:6, 8:] = 5 - own
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (32, 32), (7, 30)])
def test_the_share_of_the_label_is_that_of_the_pixels(height, width):
    seen = set()
    for drawn in _draws(cutmix_alpha=1.0)[:50]:
        mixed, _, shares = _mix(drawn, batch=2, height=height, width=width)
        counted = np.mean(mixed[0, :, :, 0] == 2)
        # Every pixel is of one of the two, none a blend.
        assert counted + np.mean(mixed[0] == 1) == pytest.approx(1)
        np.testing.assert_allclose(shares, counted, rtol=1e-6)
        seen.add(float(counted))
    assert len(seen) > 5


@pytest.mark.parametrize(
    "drawn", [[0.25, 0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.5, 0.0, 0.5]]
)
def test_an_image_left_out_is_mixed_into_no_other(drawn):
    all_mixed, _, _ = _mix(drawn)
    mixed, _, shares = _mix(drawn, weights=[1.0, 0.0, 1.0, 1.0])
    # Image 2 is left out, so image 3 stays as it is.
    np.testing.assert_array_equal(mixed[2], 3)
    np.testing.assert_array_equal(shares, [0.25, 0.25, 0.0, 0.25])
    for number in (0, 3):
        np.testing.assert_array_equal(mixed[number], all_mixed[number])


def test_an_odd_batch_leaves_the_middle_as_it_is():
    mixed, labels, _ = _mix([0.25, 0.0, 1.0, 0.0, 1.0], batch=3)
    assert labels == [30, 20, 10]
    np.testing.assert_array_equal(mixed[1], 2)


# A change here changes runs that are resumed after an upgrade.
@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (1, (0.25667715, 0.0, 1.0, 0.0, 1.0)),
        (2, (1.0, 0.36243042, 1.0, 0.23835172, 0.96311086)),
        (2**32, (0.5099582, 0.0, 1.0, 0.0, 1.0)),
    ],
)
def test_golden_draws(position, expected):
    data = DataConfig(mixup_alpha=0.1, cutmix_alpha=1.0)
    drawn = mixing.draw(data, 3, position)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


# Beta(a, a) has the mean 1/2 and the variance 1 / (8 a + 4).
@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_is_of_the_beta_distribution(alpha):
    draws = _draws(mixup_alpha=alpha)
    np.testing.assert_array_equal(draws[:, 1:], [[0, 1, 0, 1]] * _DRAWS)
    assert np.mean(draws[:, 0]) == pytest.approx(0.5, abs=0.02)
    assert np.var(draws[:, 0]) == pytest.approx(1 / (8 * alpha + 4), rel=0.1)


def test_boxes_have_the_area_and_a_uniform_centre():
    # Beta(100, 100) is nearly 1/2: sides of sqrt(1/2) = 0.7071.
    draws = _draws(cutmix_alpha=100.0)
    np.testing.assert_array_equal(draws[:, 0], 1)
    top, bottom, left, right = draws[:, 1:].T
    for low, high in ((top, bottom), (left, right)):
        assert low.min() == 0 and high.max() == 1
        is_whole = (low > 0) & (high < 1)
        sides = (high - low)[is_whole]
        # The centre has to be 0.3536 from both edges for that.
        assert np.mean(is_whole) == pytest.approx(1 - 0.7071, abs=0.03)
        assert np.mean(sides) == pytest.approx(0.7071, abs=0.01)
        # Cut off: 2 h - h^2 with h = 0.3536 on average.
        assert np.mean(high - low) == pytest.approx(0.5821, abs=0.01)
        assert np.mean(low + high) == pytest.approx(1.0, abs=0.02)
    correlation = np.corrcoef(top, left)[0, 1]
    assert abs(correlation) < 0.1


def test_with_both_each_is_done_half_of_the_time():
    draws = _draws(mixup_alpha=0.5, cutmix_alpha=100.0)
    areas = (draws[:, 2] - draws[:, 1]) * (draws[:, 4] - draws[:, 3])
    is_cutmix = areas < 1
    assert np.mean(is_cutmix) == pytest.approx(0.5, abs=0.03)
    # Each with its own alpha.
    assert np.var(draws[~is_cutmix, 0]) == pytest.approx(1 / 8, rel=0.1)
    assert areas[is_cutmix].max() < 0.7
    np.testing.assert_array_equal(draws[is_cutmix, 0], 1)


def test_draws_are_by_seed_and_position():
    first, again, other = (
        _draws(seed, mixup_alpha=1.0)[:, 0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    values = np.concatenate([first, other])
    assert len(np.unique(values)) > 0.99 * len(values)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.06
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.06
