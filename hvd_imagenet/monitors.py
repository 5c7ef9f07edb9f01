"""What is logged and shown while a `Trainer` runs: Keras callbacks."""

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from typing import TextIO

import keras
import numpy as np

from hvd_imagenet.pipeline import Batches
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.runlog import NullRunLog
from hvd_imagenet.signals import NonFiniteError
from hvd_imagenet.totals import Totals
from hvd_imagenet.trainer import Trainer


class LogMetrics(keras.callbacks.Callback):
    """Measures loss, accuracy and speed over all ranks, and logs them.

    Attributes:
        images_per_second: over the whole run, all ranks together, without
            the first step of each phase (which traces), evaluations and what
            is done at epoch ends.
        latest: what was logged last.
    """

    def __init__(
        self,
        trainer: Trainer,
        processes: Processes,
        plan: Plan,
        batches: Batches,
        run_log: NullRunLog,
        *,
        log_steps: int,
        prints_steps: bool = True,
    ):
        """Takes what to measure.

        Args:
            trainer: holds the sums of loss and accuracy.
            processes: the ranks to sum over.
            plan: steps and epochs.
            batches: know how long they were waited for.
            run_log: where to write.
            log_steps: log after every so many steps.
            prints_steps: whether to print a line then.
        """
        super().__init__()
        self.latest: dict[str, float] = {}
        self._prints_steps = prints_steps
        self._trainer = trainer
        self._processes = processes
        self._plan = plan
        self._batches = batches
        self._run_log = run_log
        self._log_steps = log_steps
        self._epoch_totals = Totals(loss=0, top1=0, top5=0, examples=0)
        self._since = None
        self._images = 0
        self._all_images = 0
        self._all_seconds = 0.0

    @property
    def images_per_second(self) -> float | None:
        if not self._all_images:
            return None
        return self._all_images / self._all_seconds

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_totals = Totals(loss=0, top1=0, top5=0, examples=0)
        if self._since is not None:
            self._restart_clock()

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        phase = self._plan.phase(batch)
        if self._since is None or batch == phase.first_step:
            # Such a step traces and compiles; wait for it, then measure.
            float(logs["loss"])
            self._restart_clock()
        else:
            self._images += phase.global_batch_size
        if self._plan.is_due(done, self._log_steps):
            self._log(done)

    def on_epoch_end(self, epoch, logs=None):
        step = self._plan.epoch_end_step(epoch)
        words = [f"epoch {epoch + 1}/{self._plan.epochs}"]
        if self._epoch_totals.examples:  # None where a run resumes at its end.
            train = self._epoch_totals.means()
            logs.update(train)
            words.append(f"train top-1 {train['top1']:.2%}")
        if "val_loss" in logs:
            validation = {
                name.removeprefix("val_"): value
                for name, value in logs.items()
                if name.startswith("val_")
            }
            self._run_log.metrics(
                "validation", step, {"epoch": epoch + 1, **validation}
            )
            words.append(
                f"validation top-1 {validation['top1']:.2%}"
                f" top-5 {validation['top5']:.2%}"
                f" loss {validation['loss']:.4f}"
            )
        self._run_log.line(", ".join(words))

    def _restart_clock(self) -> None:
        self._batches.take_wait_seconds()
        self._images = 0
        self._since = time.perf_counter()

    def _log(self, done: int) -> None:
        totals = self._trainer.take_train_totals()
        seconds = time.perf_counter() - self._since
        waited = self._batches.take_wait_seconds()
        waited, skipped = self._processes.sum(
            np.array([waited, len(self._batches.skipped)], np.float64)
        )
        self._epoch_totals = Totals(
            **{
                name: value + getattr(totals, name)
                for name, value in dataclasses.asdict(
                    self._epoch_totals
                ).items()
            }
        )
        values = {
            "epoch": self._plan.epochs_before(done),
            **totals.means(),
            "learning_rate": self._plan.learning_rate(done - 1),
        }
        if len(self._plan.phases.phases) > 1:
            phase = self._plan.phase(done - 1)
            values["image_size"] = phase.image_size
            values["global_batch_size"] = phase.global_batch_size
        if self._images:
            values["images_per_second"] = self._images / seconds
            values["data_wait_share"] = (
                waited / self._processes.world.size / seconds
            )
            self._all_images += self._images
            self._all_seconds += seconds
        if skipped:
            values["skipped_images"] = skipped
        scale = getattr(self.model.optimizer, "dynamic_scale", None)
        if scale is not None:
            values["loss_scale"] = float(scale)
        self.latest = values
        self._run_log.metrics("train", done, values)
        if self._prints_steps:
            self._run_log.line(self._sentence(done, values))
        if not math.isfinite(values["loss"]):
            # The sum over ranks, so that all of them stop here.
            raise NonFiniteError(
                f"the training loss is {values['loss']} before step {done};"
                " lower the learning rate or lengthen the warmup, and resume"
                " from the last checkpoint."
            )
        self._restart_clock()

    def _sentence(self, done: int, values: Mapping[str, float]) -> str:
        words = [
            f"step {done}/{self._plan.total_steps}",
            f"epoch {values['epoch']:.2f}",
            f"loss {values['loss']:.4f}",
            f"top-1 {values['top1']:.2%}",
            f"rate {values['learning_rate']:.4g}",
        ]
        if "images_per_second" in values:
            words.append(f"{values['images_per_second']:.1f} images/s")
            words.append(f"waiting for data {values['data_wait_share']:.0%}")
        return ", ".join(words)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody watches a stream.

    mpirun gives its ranks a pseudo-terminal too, but one without a width.
    """
    return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0


class ProgressBar(keras.callbacks.Callback):
    """A bar per epoch with what was logged last, for a terminal."""

    _SHOWN = ("loss", "top1", "learning_rate", "images_per_second")

    def __init__(self, plan: Plan, log: LogMetrics):
        super().__init__()
        self._plan = plan
        self._log = log
        self._bar = None
        self._first = 0
        self._end = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._bar = None
        self._end = self._plan.epoch_end_step(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if self._bar is None:
            self._first = batch
            self._bar = keras.utils.Progbar(
                self._end - batch, stateful_metrics=self._SHOWN
            )
        values = [
            (name, self._log.latest[name])
            for name in self._SHOWN
            if name in self._log.latest
        ]
        self._bar.update(batch - self._first + 1, values)
