"""How all ranks stop at the same step: asked by a signal, or at a fault."""

import signal
import sys
from types import FrameType

import keras
import tensorflow as tf

from hvd_imagenet import signals
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.trainer import Trainer

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The run was asked to stop and has saved where it is."""


class StopRequests:
    """Takes note of SIGTERM and SIGINT while in the `with` block.

    A second SIGINT interrupts at once.

    Attributes:
        asked: whether there was one.
    """

    def __init__(self):
        self.asked = False
        self._handlers = {}

    def __enter__(self) -> "StopRequests":
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked = True
        sys.stderr.write(
            f"{signal.Signals(number).name}: all ranks will stop after a step"
            " and save a checkpoint.\n"
        )


class StopTogether(keras.callbacks.Callback):
    """Stops all ranks at one step if any was asked to, or computed inf or nan.

    Sets the model's `stop_training`, which `training_loop.fit` looks at. It
    must come before what saves the model.
    """

    def __init__(
        self,
        trainer: Trainer,
        processes: Processes,
        requests: StopRequests,
        plan: Plan,
        *,
        delay_steps: int | None = None,
        settle_every_steps: int = 0,
    ):
        """Says when to look.

        Args:
            trainer: exchanges the signals.
            processes: the ranks.
            requests: what this rank was asked.
            plan: its epochs end with a checkpoint.
            delay_steps: steps that the device may be behind; to look at the
                latest step would wait for it. Default: 1 with a GPU, else 0.
            settle_every_steps: wait all the same every so many steps and at
                the end of epochs, as the model is saved then.
        """
        super().__init__()
        self._trainer = trainer
        self._processes = processes
        self._requests = requests
        self._plan = plan
        if delay_steps is None:
            delay_steps = min(1, len(tf.config.get_visible_devices("GPU")))
        self._delay_steps = delay_steps
        self._settle_every_steps = settle_every_steps
        self._unseen: list[tuple[int, signals.Signals]] = []
        # With loss scaling such steps are skipped.
        self._has_loss_scale = hasattr(trainer.optimizer, "dynamic_scale")

    def on_train_batch_begin(self, batch, logs=None):
        self._trainer.asks_to_stop = self._requests.asked

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        self._unseen.append((done, self._trainer.signals))
        is_saved = self._plan.is_due(done, self._settle_every_steps)
        self._look(0 if is_saved else self._delay_steps)

    def on_train_end(self, logs=None):
        self._look(0)

    def _look(self, unseen_steps: int) -> None:
        """All ranks look at the same steps, and so at the same sums."""
        while len(self._unseen) > unseen_steps:
            step, told = self._unseen.pop(0)
            if not self._has_loss_scale:
                signals.require_finite(
                    told,
                    step,
                    self.model.trainable_variables,
                    self._processes,
                )
            if float(told.asked):
                self.model.stop_training = True
