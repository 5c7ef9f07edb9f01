"""What shows how far a run is, and at its end what it was."""

import os
from collections.abc import Mapping
from typing import Any, TextIO

import keras
import tqdm

from hvd_imagenet.monitors import LogMetrics
from hvd_imagenet.pace import Pace, duration
from hvd_imagenet.plan import Plan


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody watches a stream.

    mpirun gives its ranks a pseudo-terminal too, but one without a size.
    """
    return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0


class LiveLine(keras.callbacks.Callback):
    """One line that is written anew as the run goes on, for a terminal."""

    def __init__(self, plan: Plan, log: LogMetrics, stream: TextIO):
        """Shows a run on a stream.

        Args:
            plan: steps and epochs.
            log: is called before this.
            stream: the terminal.
        """
        super().__init__()
        self._plan = plan
        self._log = log
        self._stream = stream
        self._line: tqdm.tqdm | None = None

    def on_train_batch_end(self, batch, logs=None):
        epoch = min(self._plan.epoch_of_step(batch) + 1, self._plan.epochs)
        words = f"epoch {epoch}/{self._plan.epochs}"
        if self._line is None:
            self._line = tqdm.tqdm(
                desc=words,
                total=self._plan.total_steps,
                initial=batch,
                file=self._stream,
                leave=False,
                dynamic_ncols=True,
                # The rest of the time is ours: it knows of evaluations.
                bar_format="{desc} {bar:12} step {n_fmt}/{total_fmt}{postfix}",
            )
        self._line.set_description_str(words, refresh=False)
        self._line.set_postfix_str(self._measured(batch + 1), refresh=False)
        self._line.update()

    def on_train_end(self, logs=None):
        if self._line is not None:
            self._line.close()
            self._line = None

    def _measured(self, done: int) -> str:
        latest = self._log.latest
        formats = {
            "loss": "loss {:.4f}",
            "top1": "top-1 {:.2%}",
            "learning_rate": "rate {:.4g}",
            "images_per_second": "{:.1f} images/s",
        }
        words = [
            text.format(latest[name])
            for name, text in formats.items()
            if name in latest
        ]
        left = self._log.pace.seconds_left(done)
        if left is not None:
            words.append(f"{duration(left)} left")
        return ", ".join(words)


def summary(result: Mapping[str, Any], pace: Pace, workdir: str) -> str:
    """What a run has reached, how fast, and where to look; two lines or three.

    Args:
        result: of the last evaluation.
        pace: of this process's part of the run.
        workdir: its directory.
    """
    lines = [
        f"result: top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%},"
        f" loss {result['loss']:.4f} on {result['examples']} images"
    ]
    if pace.images_per_second is not None:
        lines.append(
            f"time: {duration(pace.seconds)} of training at"
            f" {pace.images_per_second:.1f} images/s,"
            f" {duration(pace.pause_seconds)} between epochs"
        )
    logdir = os.path.join(workdir, "tensorboard")
    lines.append(f"run: {workdir} (tensorboard --logdir={logdir})")
    return "\n".join(lines)
