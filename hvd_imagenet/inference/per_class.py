"""What of an evaluation belongs to which class."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from hvd_imagenet.evaluation import Answers
from hvd_imagenet.inference.class_names import ClassNames

CSV_COLUMNS = (
    "class",
    "id",
    "text",
    "images",
    "top1",
    "top5",
    "predicted",
    "precision",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByClass:
    """Counts of images by class, [classes] int64 each.

    Attributes:
        names: of the classes.
        images: images of the class.
        top1: those whose label has the largest logit.
        top5: those whose label has one of the five largest.
        predicted: images, of any class, for which it has the largest logit.
        confused: (class, predicted class, images) of every pair that occurs,
            the most frequent first.
    """

    names: ClassNames
    images: np.ndarray
    top1: np.ndarray
    top5: np.ndarray
    predicted: np.ndarray
    confused: list[tuple[int, int, int]]

    @classmethod
    def of(cls, answers: Answers, names: ClassNames) -> "ByClass":
        """Counts what was said of each image."""
        count, labels = len(names), answers.labels
        is_right = answers.predicted == labels
        pairs = np.stack([labels, answers.predicted], axis=1)[~is_right]
        pairs, times = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-times, kind="stable")
        return cls(
            names=names,
            images=np.bincount(labels, minlength=count),
            top1=np.bincount(labels[is_right], minlength=count),
            top5=np.bincount(labels[answers.in_top5], minlength=count),
            predicted=np.bincount(answers.predicted, minlength=count),
            confused=[
                (*map(int, pairs[place]), int(times[place])) for place in order
            ],
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per class, as for JSON; shares are None of no images."""
        for number in range(len(self.names)):
            top1, predicted = self.top1[number], self.predicted[number]
            images = self.images[number]
            values = (
                number,
                self.names.ids[number],
                self.names.texts[number],
                int(images),
                _share(top1, images),
                _share(self.top5[number], images),
                int(predicted),
                _share(top1, predicted),
            )
            yield dict(zip(CSV_COLUMNS, values, strict=True))

    def worst(self, limit: int) -> list[dict[str, Any]]:
        """The rows of the classes with the least top-1, of those that occur."""
        rows = [row for row in self.rows() if row["images"]]
        return sorted(rows, key=lambda row: (row["top1"], row["top5"]))[:limit]


def _share(part: np.integer, whole: np.integer) -> float | None:
    return float(part / whole) if whole else None
