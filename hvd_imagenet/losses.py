"""What training minimises: softmax or binary cross-entropy of an image."""

import dataclasses

import tensorflow as tf

# Labels and shares of the images that were mixed into those of a batch.
Partners = tuple[tf.Tensor, tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """Loss of an image by its logits x and its target t over K classes.

    The target is 1 at the label and 0 elsewhere. Where a share p of another
    image was mixed in (`mixing.py`), it is 1 - p at the image's label plus p at
    the other's. Label smoothing s (Szegedy et al. 2016, arXiv 1512.00567,
    section 7) then makes it (1 - s) t + s / K. The loss is

        "softmax"   -(sum over classes of t log softmax(x))
        "bce"       -(mean over classes of t log sigmoid(x)
                                           + (1 - t) log sigmoid(-x))

    Binary cross-entropy asks for every class whether it is in the image
    (Wightman, Touvron and Jegou 2021, arXiv 2110.00476). The mean over classes
    is timm's default; gradients are K times smaller than those of the sum.

    Attributes:
        form: "softmax" or "bce".
        label_smoothing: s, at least 0 and less than 1.
        target_threshold: with "bce", targets above it become 1 and the others
            0, as the last step; None leaves them as they are.
    """

    form: str = "softmax"
    label_smoothing: float = 0.0
    target_threshold: float | None = None

    def __post_init__(self):
        if self.form not in ("softmax", "bce"):
            raise ValueError(f'form={self.form} must be "softmax" or "bce".')
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} must be in [0, 1)."
            )
        if self.form == "softmax" and self.target_threshold is not None:
            raise ValueError(
                f"target_threshold={self.target_threshold} is for"
                ' form="bce" only; leave it out.'
            )

    def __call__(
        self,
        labels: tf.Tensor,
        logits: tf.Tensor,
        partners: Partners | None = None,
    ) -> tf.Tensor:
        """Loss per image.

        Args:
            labels: [batch] int32, from 0.
            logits: [batch, classes] float32.
            partners: of the images mixed in, labels [batch] int32 and shares
                [batch] float32, 0 to 1.

        Returns:
            [batch] float32.
        """
        if self.form == "bce":
            return self._binary_cross_entropies(labels, logits, partners)
        return self._cross_entropies(labels, logits, partners)

    def _cross_entropies(self, labels, logits, partners):
        # The loss is linear in the target, so no row of targets is made.
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if partners is not None:
            others, shares = partners
            theirs = tf.nn.sparse_softmax_cross_entropy_with_logits(
                others, logits
            )
            losses = _blend(losses, theirs, shares)
        if self.label_smoothing:
            spread = tf.reduce_logsumexp(logits, 1) - tf.reduce_mean(logits, 1)
            losses = _blend(losses, spread, self.label_smoothing)
        return losses

    def _binary_cross_entropies(self, labels, logits, partners):
        classes = logits.shape[-1]
        targets = tf.one_hot(labels, classes)
        if partners is not None:
            others, shares = partners
            theirs = tf.one_hot(others, classes)
            targets = _blend(targets, theirs, shares[:, tf.newaxis])
        targets = _blend(targets, 1.0 / classes, self.label_smoothing)
        if self.target_threshold is not None:
            targets = tf.cast(targets > self.target_threshold, tf.float32)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        return tf.reduce_mean(losses, axis=1)


def _blend(own, other, share):
    return (1.0 - share) * own + share * other
