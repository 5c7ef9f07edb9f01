"""Loss and accuracy as sums over images, exact over batches and ranks."""

import dataclasses

import numpy as np
import tensorflow as tf

from hvd_imagenet.processes import Processes

_TOP = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over images, which add up over batches and ranks.

    Attributes:
        loss: sum of the images' losses.
        top1: images whose label has the largest logit.
        top5: images whose label has one of the five largest.
        examples: images counted.
        skipped: records left out of all of these.
    """

    loss: float
    top1: float
    top5: float
    examples: float
    skipped: float = 0.0

    def means(self) -> dict[str, float]:
        """Mean loss, and accuracies from 0 to 1."""
        count = max(self.examples, 1.0)
        return {
            "loss": self.loss / count,
            "top1": self.top1 / count,
            "top5": self.top5 / count,
        }


class TotalsVariable:
    """`Totals` of this rank, added up on the device."""

    def __init__(self):
        self._sums = tf.Variable(tf.zeros([4], tf.float64), trainable=False)

    def add(
        self,
        labels: tf.Tensor,
        weights: tf.Tensor,
        logits: tf.Tensor,
        losses: tf.Tensor,
    ) -> None:
        """Adds a batch, inside a `tf.function`.

        Args:
            labels: [batch] int32.
            weights: [batch] float32, 0 for what is not to count.
            logits: [batch, classes] float32.
            losses: [batch] float32.
        """
        best = top_labels(logits)
        hits = tf.cast(best == labels[:, tf.newaxis], tf.float32)
        rows = tf.stack(
            [
                losses,
                hits[:, 0],
                tf.reduce_sum(hits, axis=1),
                tf.ones_like(weights),
            ]
        )
        # Where the weight is 0 a loss may be anything, nan as well.
        rows = tf.where(weights > 0, rows * weights, 0.0)
        self._sums.assign_add(tf.reduce_sum(tf.cast(rows, tf.float64), axis=1))

    def take(self) -> np.ndarray:
        """[4] float64, as the fields of `Totals`; starts again from zero."""
        values = self._sums.numpy()
        self._sums.assign(tf.zeros_like(self._sums))
        return values

    def take_over(self, processes: Processes) -> Totals:
        """Sums over all ranks, as `take`. A collective operation."""
        loss, top1, top5, examples = processes.sum(self.take())
        return Totals(loss=loss, top1=top1, top5=top5, examples=examples)


def top_labels(logits: tf.Tensor) -> tf.Tensor:
    """[batch, 5] int32: the classes of the largest logits, falling."""
    return tf.math.top_k(logits, min(_TOP, logits.shape[-1])).indices
