"""No result is given unless every image was counted once."""

import itertools

import keras
import pytest
import tensorflow as tf

from hvd_imagenet import evaluation, processes
from hvd_imagenet.pipeline import Batch


class _Batches(itertools.cycle):
    """The same batches again and again."""

    skipped = ()


def _batches(*images):
    batch = Batch(
        images=tf.zeros([3, 8, 8, 3], tf.uint8),
        labels=tf.constant([0, 1, 2]),
        weights=tf.constant([float(image >= 0) for image in images]),
        indices=tf.constant(images, tf.int64),
    )
    return _Batches([batch])


@pytest.fixture(scope="module")
def evaluator():
    model = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    return evaluation.Evaluator(model, processes.Processes())


def test_padding_is_not_counted(evaluator):
    found = evaluator.evaluate(_batches(1, 0, -1), steps=1, examples=2)
    assert found.totals.examples == 2
    assert list(found.answers.images) == [0, 1]
    assert list(found.answers.labels) == [1, 0]


@pytest.mark.parametrize(
    ("images", "steps", "examples"),
    [
        ((0, 1, 2), 2, 6),  # Twice, so that the count is right.
        ((0, 1, 1), 1, 3),
        ((0, 1, -1), 1, 3),
        ((0, 1, 2), 1, 2),
    ],
)
def test_images_that_are_not_each_counted_once_are_a_fault(
    evaluator, images, steps, examples
):
    with pytest.raises(RuntimeError, match="are different, and skipped 0"):
        evaluator.evaluate(_batches(*images), steps=steps, examples=examples)
