"""How large weights and gradients are, layer by layer: a Keras callback."""

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.lars import LARS
from hvd_imagenet.plan import Plan
from hvd_imagenet.runlog import NullRunLog
from hvd_imagenet.trainer import Trainer, norms_of


class LogLayerNorms(keras.callbacks.Callback):
    """Shows norms of weights and gradients, and LARS's trust ratios.

    Euclidean norms of every trainable variable before a step and of its
    gradient in that step: averaged over the ranks, without the loss scale and
    without weight decay. The trust ratio is what LARS multiplies the global
    learning rate by (You et al. 2017, arXiv 1708.03888, equation 6). For rank 0
    alone; nothing is exchanged.
    """

    def __init__(
        self,
        trainer: Trainer,
        plan: Plan,
        run_log: NullRunLog,
        *,
        every_steps: int,
    ):
        """Takes what to measure.

        Args:
            trainer: does the steps.
            plan: steps and epochs.
            run_log: where to write.
            every_steps: measure one step of so many; 0 to measure none but
                the last of each epoch.
        """
        super().__init__()
        self._trainer = trainer
        self._plan = plan
        self._run_log = run_log
        self._every_steps = every_steps
        self._weight_norms: np.ndarray | None = None
        self._norms_of = tf.function(norms_of)

    def on_train_batch_begin(self, batch, logs=None):
        is_due = self._plan.is_due(batch + 1, self._every_steps)
        self._trainer.measures_norms = is_due
        if is_due:
            weights = self._trainer.model.trainable_variables
            self._weight_norms = self._norms_of([v.value for v in weights])

    def on_train_batch_end(self, batch, logs=None):
        if not self._trainer.measures_norms:
            return
        weights = self._trainer.model.trainable_variables
        paths = [variable.path for variable in weights]
        weight_norms = self._weight_norms.numpy()
        gradient_norms = self._trainer.gradient_norms.numpy()
        curves = {
            "weight_norm": float(np.linalg.norm(weight_norms)),
            "gradient_norm": float(np.linalg.norm(gradient_norms)),
        }
        for path, weight, gradient in zip(
            paths, weight_norms, gradient_norms, strict=True
        ):
            curves[f"weights/{path}"] = float(weight)
            curves[f"gradients/{path}"] = float(gradient)
        optimizer = self._trainer.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if isinstance(optimizer, LARS):
            limit = optimizer.global_clipnorm
            if limit:
                gradient_norms *= limit / max(limit, curves["gradient_norm"])
            ratios = optimizer.trust_ratio(weight_norms, gradient_norms)
            for variable, ratio in zip(weights, ratios.numpy(), strict=True):
                if variable.name not in optimizer.skipped:
                    curves[f"trust_ratios/{variable.path}"] = float(ratio)
        self._run_log.curves("train", batch + 1, curves)
