"""What of an evaluation belongs to which class, for tables and files."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from hvd_imagenet import confusion
from hvd_imagenet.confusion import ClassResult
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
    """The results of classes, and their names.

    Attributes:
        names: of all classes.
        results: by number, of the classes that have images.
        predicted: [classes] int64, images of any class for which this one has
            the largest logit.
    """

    names: ClassNames
    results: dict[int, ClassResult]
    predicted: np.ndarray

    @classmethod
    def of(cls, answers: Answers, names: ClassNames) -> "ByClass":
        """Counts what was said of each image."""
        return cls(
            names=names,
            results={each.label: each for each in confusion.by_class(answers)},
            predicted=np.bincount(answers.predicted, minlength=len(names)),
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per class, as for JSON; shares are None of no images."""
        for number, predicted in enumerate(self.predicted.tolist()):
            result = self.results.get(number)
            right = round(result.images * result.top1) if result else 0
            values = (
                number,
                self.names.ids[number],
                self.names.texts[number],
                result.images if result else 0,
                result and result.top1,
                result and result.top5,
                predicted,
                right / predicted if predicted else None,
            )
            yield dict(zip(CSV_COLUMNS, values, strict=True))

    def worst(self, limit: int) -> list[dict[str, Any]]:
        """The rows of the classes with the least top-1, of those with images.

        See `confusion.worst`.
        """
        rows = list(self.rows())
        worst = confusion.worst(list(self.results.values()), limit)
        return [rows[result.label] for result in worst]

    def confused(self) -> list[tuple[int, int, int]]:
        """(class, predicted class, images) of every pair that occurs.

        The most frequent come first.
        """
        pairs = [
            (label, predicted, images)
            for label, result in self.results.items()
            for predicted, images in result.taken_for
        ]
        return sorted(pairs, key=lambda pair: (-pair[2], *pair[:2]))
