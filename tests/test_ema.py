"""Averaged weights: their formula, and changing places with the model's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet.ema import WeightAverage
from hvd_imagenet.normalization import FusedBatchNormalization


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input([4, 4, 3]),
            keras.layers.Conv2D(2, 3, name="conv"),
            FusedBatchNormalization(name="bn"),
        ],
        name="net",
    )


def _values(variables):
    return [variable.numpy() for variable in variables]


def _assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def _set_random(model, generator):
    for variable in model.variables:
        variable.assign(generator.normal(size=variable.shape))


def test_it_begins_with_the_models_weights_and_statistics(model):
    average = WeightAverage(model, 0.9)
    assert [v.path for v in average.variables] == [
        "average/net_conv_kernel",
        "average/net_conv_bias",
        "average/net_bn_gamma",
        "average/net_bn_beta",
        "average/net_bn_moving_mean",
        "average/net_bn_moving_variance",
    ]
    assert average.statistics == average.variables[-2:]
    assert not any(v.trainable for v in average.variables)
    _assert_same(_values(average.variables), _values(model.variables))


def test_twenty_updates_equal_the_formula_in_numpy(model):
    generator = np.random.default_rng(0)
    average = WeightAverage(model, 0.9)
    update = tf.function(average.update)
    expected = [value.astype(np.float64) for value in _values(model.variables)]
    for _ in range(20):
        _set_random(model, generator)
        update()
        expected = [
            0.9 * mean + 0.1 * value
            for mean, value in zip(
                expected, _values(model.variables), strict=True
            )
        ]
    for ours, theirs in zip(_values(average.variables), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_what_does_not_change_stays_to_the_bit(model):
    average = WeightAverage(model, 0.9999)
    before = _values(average.variables)
    for _ in range(50):
        average.update()
    _assert_same(_values(average.variables), before)


def test_it_changes_places_with_the_model_and_back(model):
    average = WeightAverage(model, 0.9)
    averages = _values(average.variables)
    _set_random(model, np.random.default_rng(0))
    weights = _values(model.variables)
    with average.swapped():
        _assert_same(_values(model.variables), averages)
        _assert_same(_values(average.variables), weights)
    with pytest.raises(KeyError), average.swapped():
        raise KeyError
    _assert_same(_values(model.variables), weights)
    _assert_same(_values(average.variables), averages)


def test_without_a_decay_there_is_nothing(model):
    average = WeightAverage(model, None)
    assert average.variables == average.statistics == []
    weights = _values(model.variables)
    average.update()
    with average.swapped():
        _assert_same(_values(model.variables), weights)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_an_impossible_decay_is_refused(model, decay):
    with pytest.raises(ValueError, match=rf"decay={decay} must be in"):
        WeightAverage(model, decay)
