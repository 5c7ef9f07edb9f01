"""Which classes an evaluation found worst, and what they were taken for."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from hvd_imagenet import pictures
from hvd_imagenet.evaluation import Answers

_WORST = 20
_SHOWN = 12
_TAKEN_FOR = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassResult:
    """Of the images of a class.

    Attributes:
        label: the class.
        images: how many there are.
        top1: share of them that the model knew.
        top5: share of them for which it was among the first five.
        taken_for: (class, images), other classes that they were taken for, the
            most frequent first.
    """

    label: int
    images: int
    top1: float
    top5: float
    taken_for: tuple[tuple[int, int], ...]


def by_class(answers: Answers) -> list[ClassResult]:
    """The result of every class that has an image, by its number."""
    results = []
    for label in np.unique(answers.labels):
        is_member = answers.labels == label
        predicted = answers.predicted[is_member]
        others = collections.Counter(predicted[predicted != label].tolist())
        results.append(
            ClassResult(
                label=int(label),
                images=len(predicted),
                top1=float(np.mean(predicted == label)),
                top5=float(np.mean(answers.in_top5[is_member])),
                # The smaller number first where they are equally many.
                taken_for=tuple(
                    sorted(others.items(), key=lambda pair: (-pair[1], pair[0]))
                ),
            )
        )
    return results


def worst(
    results: Sequence[ClassResult], count: int = _WORST
) -> list[ClassResult]:
    """The classes with the lowest top-1 accuracy, the worst first."""
    return sorted(results, key=lambda r: (r.top1, r.top5, r.label))[:count]


def markdown(results: Sequence[ClassResult]) -> str:
    """A table with a line per class."""
    lines = [
        "| class | images | top-1 | top-5 | most often taken for |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        others = ", ".join(
            f"{label} ({count / result.images:.0%})"
            for label, count in result.taken_for[:_TAKEN_FOR]
        )
        lines.append(
            f"| {result.label} | {result.images} | {result.top1:.1%}"
            f" | {result.top5:.1%} | {others} |"
        )
    return "\n".join(lines)


def picture(results: Sequence[ClassResult]) -> np.ndarray:
    """A part of the confusion matrix, in percent of the images of each row.

    Args:
        results: the rows, of which the first are taken; the columns are the
            same classes and those that they were most often taken for.

    Returns:
        [height, width, 3] uint8, RGB.
    """
    results = sorted(results[:_SHOWN], key=lambda result: result.label)
    rows = [result.label for result in results]
    columns = sorted(
        {*rows, *(r.taken_for[0][0] for r in results if r.taken_for)}
    )
    place = {label: number for number, label in enumerate(columns)}
    shares = np.zeros([len(rows), len(columns)])
    for row, result in enumerate(results):
        shares[row, place[result.label]] = result.top1
        for label, count in result.taken_for:
            if label in place:
                shares[row, place[label]] = count / result.images
    return pictures.table(
        shares,
        [str(label) for label in rows],
        [str(label) for label in columns],
        corner="true / taken for, %",
    )
