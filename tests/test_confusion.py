"""What an evaluation says of each class."""

import numpy as np

from hvd_imagenet import confusion
from hvd_imagenet.evaluation import Answers

# Class 2 has no image, and nothing is taken for it.
_LABELS = np.array([0, 0, 0, 0, 1, 1, 3, 3, 3])
_PREDICTED = np.array([0, 1, 1, 3, 1, 1, 0, 1, 0])
_ANSWERS = Answers(
    images=np.arange(9),
    labels=_LABELS,
    predicted=_PREDICTED,
    in_top5=np.array([1, 1, 0, 0, 1, 1, 0, 0, 1], bool),
)


def test_every_class_with_an_image_has_a_result():
    found = {result.label: result for result in confusion.by_class(_ANSWERS)}
    assert list(found) == [0, 1, 3]
    assert [result.images for result in found.values()] == [4, 2, 3]
    assert [result.top1 for result in found.values()] == [0.25, 1.0, 0.0]
    assert [result.top5 for result in found.values()] == [0.5, 1.0, 1 / 3]
    assert found[0].taken_for == ((1, 2), (3, 1))
    assert found[1].taken_for == ()
    assert found[3].taken_for == ((0, 2), (1, 1))
    right = sum(result.top1 * result.images for result in found.values())
    assert right == np.sum(_LABELS == _PREDICTED)


def test_the_worst_come_first_in_the_table():
    results = confusion.by_class(_ANSWERS)
    worst = confusion.worst(results, count=2)
    assert [result.label for result in worst] == [3, 0]
    assert confusion.markdown(worst).splitlines()[2:] == [
        "| 3 | 3 | 0.0% | 33.3% | 0 (67%), 1 (33%) |",
        "| 0 | 4 | 25.0% | 50.0% | 1 (50%), 3 (25%) |",
    ]


def test_a_picture_is_as_dark_as_the_share_is_large():
    picture = confusion.picture(confusion.by_class(_ANSWERS)).astype(int)
    # Cells of 40 pixels under a line of 16, columns 0, 1, 3; right of the text.
    cells = picture[16:, -120:].reshape(3, 40, 3, 40, 3)
    light = cells[:, 2, :, 2].sum(axis=-1)  # Beside the number.
    shares = np.array([[0.25, 0.5, 0.25], [0, 1, 0], [2 / 3, 1 / 3, 0]])
    order = np.argsort(-shares.ravel(), kind="stable")
    assert np.all(np.diff(light.ravel()[order]) >= 0)
    assert np.all(light[shares == 0] == 3 * 255)
