"""What is measured while a `Trainer` runs: a Keras callback."""

import dataclasses
import math
from collections.abc import Mapping

import keras
import numpy as np

from hvd_imagenet.batches import Batches
from hvd_imagenet.pace import Pace, duration
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.runlog import NullRunLog
from hvd_imagenet.signals import NonFiniteError
from hvd_imagenet.totals import Totals
from hvd_imagenet.trainer import Trainer

_NOTHING = Totals(loss=0, top1=0, top5=0, examples=0)


class LogMetrics(keras.callbacks.Callback):
    """Measures loss, accuracy and speed over all ranks, and logs them.

    Attributes:
        pace: of the run, without the first step of each phase (which traces);
            what is done at epoch ends is apart.
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
        self.pace = Pace(plan)
        self.latest: dict[str, float] = {}
        self._prints_steps = prints_steps
        self._trainer = trainer
        self._processes = processes
        self._plan = plan
        self._batches = batches
        self._run_log = run_log
        self._log_steps = log_steps
        self._epoch_totals = _NOTHING
        self._is_traced = False

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_totals = _NOTHING
        self._begin_lap(self._plan.epoch_end_step(epoch - 1))

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        if batch == self._plan.phase(batch).first_step or not self._is_traced:
            # Such a step traces and compiles; wait for it, then measure.
            float(logs["loss"])
            self._is_traced = True
            self._begin_lap(done)
        if self._plan.is_due(done, self._log_steps):
            self._log(done)

    def on_epoch_end(self, epoch, logs=None):
        step = self._plan.epoch_end_step(epoch)
        self.pace.pause(step)
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

    def _begin_lap(self, step: int) -> None:
        self.pace.begin(step)
        self._batches.take_wait_seconds()

    def _log(self, done: int) -> None:
        totals = self._trainer.take_train_totals()
        waited = self._batches.take_wait_seconds()
        waited, skipped = self._processes.sum(
            np.array([waited, len(self._batches.skipped)], np.float64)
        )
        lap = self.pace.lap(done)
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
            **_of_optimizer(self.model.optimizer),
        }
        if len(self._plan.phases.phases) > 1:
            phase = self._plan.phase(done - 1)
            values["image_size"] = phase.image_size
            values["global_batch_size"] = phase.global_batch_size
        if lap.images:
            ranks = self._processes.world.size
            speed = lap.images / lap.seconds
            values["images_per_second"] = speed
            values["images_per_second_per_process"] = speed / ranks
            values["data_wait_share"] = waited / ranks / lap.seconds
        if skipped:
            values["skipped_images"] = skipped
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
        left = self.pace.seconds_left(done)
        if left is not None:
            words.append(f"{duration(left)} left")
        return ", ".join(words)


def _of_optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, float]:
    """What an optimizer has of momentum, loss scale and share of SGD."""
    values = {}
    scale = getattr(optimizer, "dynamic_scale", None)
    if scale is not None:
        values["loss_scale"] = float(scale)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for name in ("momentum", "sgd_share"):
        if hasattr(optimizer, name):
            values[name] = float(getattr(optimizer, name))
    return values
