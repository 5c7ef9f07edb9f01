"""The train step, and the evaluation of what is trained.

A step runs one or more micro-batches, averages the gradients over all
micro-batches of all ranks and applies them once. Neither the result nor the
running statistics of batch normalization depend on how the micro-batches were
spread over ranks, up to the order of floating-point sums.
"""

from collections.abc import Iterable, Sequence

import keras
import tensorflow as tf

from hvd_imagenet import mixing, normalization, preprocessing, signals
from hvd_imagenet.batches import Batches
from hvd_imagenet.ema import WeightAverage
from hvd_imagenet.evaluation import Evaluation, Evaluator
from hvd_imagenet.losses import Loss
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.processes import Processes
from hvd_imagenet.signals import Signals
from hvd_imagenet.totals import Totals, TotalsVariable

_SOFTMAX = Loss()


class Trainer:
    """Trains a model step by step, and evaluates it.

    Attributes:
        model: from normalised images to logits.
        optimizer: a Keras optimizer; keras.optimizers.LossScaleOptimizer for
            float16.
        average: averaged weights, if there are any.
        asks_to_stop: whether to tell the other ranks, with the next step, that
            this one was asked to stop.
        signals: what all ranks told each other with the last step.
        measures_norms: whether the next step measures `gradient_norms`.
        gradient_norms: [variables] float32, Euclidean norms of the gradients
            that the last step applied, before any clipping; zeros if it did
            not measure them.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        processes: Processes,
        *,
        bn_statistics: str = "average",
        loss: Loss = _SOFTMAX,
        evaluation_flip: bool = False,
        ema_decay: float | None = None,
    ):
        """Builds the optimizer's state and the functions to trace.

        Args:
            model: the network.
            optimizer: compiled into `model`, so that Keras callbacks find it.
            processes: the ranks to average over.
            bn_statistics: "average" or "rank0", the running statistics to
                evaluate with.
            loss: what to minimise. Evaluation takes softmax cross-entropy
                of the labels, whatever this is.
            evaluation_flip: evaluate the mean of the logits of an image and
                of its mirror image.
            ema_decay: of the averaged weights to evaluate with; None for the
                weights themselves.
        """
        self.model = model
        self.optimizer = optimizer
        optimizer.build(model.trainable_variables)
        model.compile(optimizer=optimizer, auto_scale_loss=False)
        self.average = WeightAverage(model, ema_decay)
        self._processes = processes
        self._bn_statistics = bn_statistics
        self._loss = loss
        self._evaluator = Evaluator(model, processes, flip=evaluation_flip)
        self._train_totals = TotalsVariable()
        self._sums: list[tf.Variable] = []
        self.asks_to_stop = False
        self.signals: Signals | None = None
        self.measures_norms = False
        self.gradient_norms: tf.Tensor | None = None
        # Traced anew for every size of images and micro-batches, of which a
        # run has few: static shapes are what kernels are chosen by.
        self._accumulate = tf.function(self._accumulate)
        self._apply = tf.function(self._average_and_apply)

    @property
    def state(self) -> list[keras.Variable]:
        """Every variable that a resumed run needs."""
        return [
            *self.model.variables,
            *self.optimizer.variables,
            *self.average.variables,
        ]

    def join(self, processes: Processes) -> None:
        """Goes on among other ranks, as if nothing had been counted.

        Layers and variables stay: new ones would have other names here than in
        processes that have just begun.
        """
        self._processes = self._evaluator.processes = processes
        # Traced for the number of ranks; what else is has no exchange in it.
        self._apply = tf.function(self._average_and_apply)
        self._train_totals.take()
        self._evaluator.discard()

    def train_step(
        self, batches: Iterable[Batch], accumulation_steps: int = 1
    ) -> tf.Tensor:
        """One optimizer step.

        Args:
            batches: iterator; `accumulation_steps` micro-batches are taken.
            accumulation_steps: micro-batches per step on this rank.

        Returns:
            [] float32, this rank's mean loss over its last micro-batch.
        """
        if accumulation_steps > 1 and not self._sums:
            self._sums = [
                tf.Variable(tf.zeros_like(v.value), trainable=False)
                for v in self.model.trainable_variables
            ]
        for number in range(accumulation_steps - 1):
            batch = next(batches)
            is_first = tf.constant(1.0 if number == 0 else 0.0)
            self._accumulate(batch, is_first, accumulation_steps)
        loss, self.signals, self.gradient_norms = self._apply(
            next(batches),
            accumulation_steps,
            tf.constant(1.0 if self.asks_to_stop else 0.0),
            tf.constant(self.measures_norms),
        )
        return loss

    def take_train_totals(self) -> Totals:
        """Sums over all ranks of the steps since the last call.

        Of mixed images the loss is that of the mixed target, and accuracy
        counts the image's own label alone.

        A collective operation: every rank must call it at the same step.
        """
        return self._train_totals.take_over(self._processes)

    def sync_statistics(self) -> None:
        """Gives all ranks the running statistics to evaluate with.

        A collective operation.
        """
        statistics = normalization.running_statistics(self.model)
        statistics += self.average.statistics
        if self._bn_statistics == "average":
            self._processes.average(statistics)
        else:
            self._processes.broadcast(statistics)

    def evaluate(
        self, batches: Batches, *, steps: int, examples: int
    ) -> Evaluation:
        """Evaluates the validation split exactly. A collective operation.

        With the averaged weights, if there are any.

        Args:
            batches: this rank's padded share.
            steps: batches in every rank's share.
            examples: images in the split.

        Raises:
            RuntimeError: not every image was counted once.
        """
        self.sync_statistics()
        with self.average.swapped():
            return self._evaluator.evaluate(
                batches, steps=steps, examples=examples
            )

    def _gradients(self, batch, is_first, count):
        """Gradients of the micro-batch's mean (scaled) loss, and that loss."""
        labels, weights = batch.labels, batch.weights
        images, partners = preprocessing.normalise(batch.images), None
        if batch.mixing is not None:
            images, partners = mixing.mix(images, labels, weights, batch.mixing)
        with tf.GradientTape() as tape:
            with normalization.micro_batch(is_first=is_first, count=count):
                logits = self.model(images, training=True)
            losses = self._loss(labels, logits, partners)
            # By the size of the micro-batch, not by the weights: every image
            # of the step counts the same, on whatever rank.
            loss = tf.reduce_sum(weights * losses) / weights.shape[0]
            scaled = self.optimizer.scale_loss(loss)
        self._train_totals.add(labels, weights, logits, losses)
        gradients = tape.gradient(
            scaled, [v.value for v in self.model.trainable_variables]
        )
        return gradients, loss

    def _accumulate(self, batch, is_first, count):
        gradients, _ = self._gradients(batch, is_first, count)
        for total, gradient in zip(self._sums, gradients, strict=True):
            # Chosen, not multiplied by 0: the last step's may be inf or nan.
            total.assign(tf.where(is_first > 0.0, gradient, total + gradient))

    def _average_and_apply(self, batch, count, asks_to_stop, measures_norms):
        is_first = 1.0 if count == 1 else 0.0
        gradients, loss = self._gradients(batch, is_first, count)
        if count > 1:
            gradients = [
                (total + gradient) / count
                for total, gradient in zip(self._sums, gradients, strict=True)
            ]
        weights = self.model.trainable_variables
        own, faults = signals.of_rank(
            asks_to_stop, loss, [v.value for v in weights], gradients
        )
        # Averaged before the loss-scaling optimizer looks for inf and nan, so
        # that all ranks find the same and skip together.
        gradients, sums = self._processes.exchange(gradients, own)
        told = Signals(*tf.unstack(sums), faults)
        # Of the gradients alone: the updates need not wait until weights are
        # read.
        norms = tf.cond(
            measures_norms,
            lambda: norms_of(gradients) / self.optimizer.scale_loss(1.0),
            lambda: tf.zeros([len(gradients)]),
        )
        self.optimizer.apply(gradients, weights)
        self.average.update()
        return loss, told, norms


def norms_of(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """[tensors] float32, the Euclidean norm of each."""
    return tf.stack([tf.norm(tf.cast(t, tf.float32)) for t in tensors])
