"""The exact evaluation: every image of a split once, over all ranks."""

import dataclasses
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.batches import Batches
from hvd_imagenet.inference.predictor import Predictor
from hvd_imagenet.losses import Loss
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.processes import Processes
from hvd_imagenet.totals import Totals, TotalsVariable, top_labels

_LOSS = Loss()


class Answers(NamedTuple):
    """What the model said of each image, in the order of the split.

    Attributes:
        images: [images] int64, number of the image in its split.
        labels: [images] int32, what it shows.
        predicted: [images] int32, the class of its largest logit.
        in_top5: [images] bool, whether the label has one of the five largest.
    """

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    in_top5: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Of a split, the same on all ranks.

    Attributes:
        totals: sums over its images.
        answers: image by image.
    """

    totals: Totals
    answers: Answers

    def result(self) -> dict[str, float]:
        """Mean loss, accuracies from 0 to 1, and the images counted."""
        totals = self.totals
        result = {**totals.means(), "examples": int(totals.examples)}
        if totals.skipped:
            result["skipped"] = int(totals.skipped)
        return result


class Evaluator:
    """Evaluates a model by softmax cross-entropy, top-1 and top-5."""

    def __init__(
        self,
        model: keras.Model,
        processes: Processes,
        *,
        flip: bool = False,
        crop_size: int | None = None,
    ):
        """Takes what to evaluate.

        Args:
            model: from normalised images to logits.
            processes: the ranks that share the images.
            flip: see `Predictor`.
            crop_size: see `Predictor`.
        """
        self.processes = processes
        self._predict = Predictor(model, flip=flip, crop_size=crop_size)
        self._totals = TotalsVariable()
        self._test = tf.function(self._test)

    def evaluate(
        self, batches: Batches, *, steps: int, examples: int
    ) -> Evaluation:
        """Evaluates a split. A collective operation.

        The ranks must have the same weights and running statistics.

        Args:
            batches: this rank's padded share.
            steps: batches in every rank's share.
            examples: images in the split.

        Raises:
            RuntimeError: not every image was counted once.
        """
        # Left on the device until all are on their way.
        parts = [self._test(next(batches)) for _ in range(steps)]
        totals = self._totals.take_over(self.processes)
        (skipped,) = self.processes.sum(np.array([len(batches.skipped)]))
        answers = self._gather(parts)
        if not _is_each_once(answers.images, examples - int(skipped)):
            raise RuntimeError(
                f"The evaluation counted {totals.examples:.0f} images, of"
                f" which {len(np.unique(answers.images))} are different, and"
                f" skipped {skipped:.0f} of {examples}; this is a fault of the"
                " program, no result is given."
            )
        return Evaluation(
            totals=dataclasses.replace(totals, skipped=skipped),
            answers=answers,
        )

    def discard(self) -> None:
        """Forgets what an evaluation that was broken off has counted."""
        self._totals.take()

    def _test(self, batch: Batch) -> tuple[tf.Tensor, ...]:
        logits = self._predict(batch.images)
        losses = _LOSS(batch.labels, logits)
        self._totals.add(batch.labels, batch.weights, logits, losses)
        best = top_labels(logits)
        in_top5 = tf.reduce_any(best == batch.labels[:, tf.newaxis], axis=1)
        return batch.weights, batch.indices, batch.labels, best[:, 0], in_top5

    def _gather(self, parts: list[tuple[tf.Tensor, ...]]) -> Answers:
        """The answers of all ranks."""
        weights, *columns = (
            np.concatenate([tensor.numpy() for tensor in tensors])
            for tensors in zip(*parts, strict=True)
        )
        own = [column[weights > 0] for column in columns]
        gathered = zip(*self.processes.gather_object(own), strict=True)
        images, *others = (np.concatenate(column) for column in gathered)
        order = np.argsort(images)
        return Answers(images[order], *(column[order] for column in others))


def _is_each_once(images: np.ndarray, expected: int) -> bool:
    return len(images) == len(np.unique(images)) == expected
