"""A run's lines in MLPerf's format, which rank 0 writes.

The clock starts before any data is touched: making the model is on it. It goes
on while a run that will be resumed is not running, and stops with the
evaluation that reaches MLPerf's target. What a resumed run finds in its log is
not said again.
"""

import json
import logging
import os
import time

import keras
import psutil
from absl import logging as absl_logging

from hvd_imagenet import first_rank, metrics_log, mlperf_keys
from hvd_imagenet.attempts import Attempts
from hvd_imagenet.config import Config
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes


class NullMLPerfLog(keras.callbacks.Callback):
    """Writes nothing."""

    def begin(self, plan: Plan) -> None:
        """Writes what is known before the first step."""

    def evaluation_begins(self, epoch: int) -> None:
        """Writes that `epoch`, counted from 0, is about to be evaluated."""


class MLPerfLog(NullMLPerfLog):
    """Writes WORKDIR/mlperf.log, if it can."""

    def __init__(self, config: Config):
        """Starts the clock, and writes nothing yet.

        Raises:
            ValueError: a package is not installed.
        """
        super().__init__()
        try:
            from mlperf_logging.mllog import mllog
        except ImportError as error:
            raise ValueError(
                f"--mlperf_log needs the package mlperf-logging ({error}); pip"
                " install hvd_imagenet[mlperf], or leave the flag out."
            ) from error
        self._clock_ms = _now_ms()
        self._config = config
        self._path = os.path.join(config.run.workdir or "", "mlperf.log")
        self._lines = Attempts("lines of mlperf.log")
        logger = logging.Logger("mlperf", logging.INFO)
        logger.addHandler(_Appending(self._path, self._lines))
        self._mllog = mllog.MLLogger(logger)
        self._is_over = False
        self._plan: Plan | None = None
        # Epochs from one evaluation to the next, as metadata; None in between.
        self._block: dict[str, int] | None = None

    def begin(self, plan: Plan) -> None:
        self._plan = plan
        said = self._read()
        keys = {key for key, _ in said}
        self._is_over = "run_stop" in keys
        if self._is_over:
            return
        # First the division, by which the checker knows how long
        # initialization may take.
        entries = mlperf_keys.submission(self._config)
        entries += [("cache_clear", False)]
        entries += mlperf_keys.hyperparameters(self._config, plan)
        for key, value in entries:
            if (key, json.dumps(value)) not in said:
                self._mllog.event(key, value)
        if "run_start" in keys:
            return
        started_ms = int(psutil.Process().create_time() * 1e3)
        self._mllog.start("init_start", time_ms=started_ms)
        self._mllog.end("init_stop", time_ms=self._clock_ms)
        self._mllog.start("run_start", time_ms=self._clock_ms)

    def on_epoch_begin(self, epoch, logs=None):
        if self._is_over or self._block is not None:
            return
        every = self._config.run.evaluation_every_epochs
        self._block = {
            "first_epoch_num": epoch + 1,
            "epoch_count": min(
                every - epoch % every, self._plan.epochs - epoch
            ),
        }
        self._mllog.start("block_start", metadata=self._block)

    def evaluation_begins(self, epoch: int) -> None:
        if self._is_over:
            return
        self._mllog.end("block_stop", metadata=self._block)
        self._block = None
        self._mllog.start("eval_start", metadata={"epoch_num": epoch + 1})

    def on_epoch_end(self, epoch, logs=None):
        if self._is_over or "val_top1" not in logs:
            return
        top1, metadata = logs["val_top1"], {"epoch_num": epoch + 1}
        self._mllog.event("eval_accuracy", top1, metadata=metadata)
        self._mllog.end("eval_stop", metadata=metadata)
        if top1 >= mlperf_keys.TARGET_TOP1:
            self._stop("success")

    def on_train_end(self, logs=None):
        # A run that was asked to stop will go on.
        if not self._is_over and not self.model.stop_training:
            self._stop("aborted")
        if self._lines.losses:
            absl_logging.warning("Lost: %s.", self._lines.losses)

    def _stop(self, status: str) -> None:
        self._mllog.end("run_stop", metadata={"status": status})
        self._is_over = True

    def _read(self) -> set[tuple[str, str]]:
        """Keys, and values as JSON, of what the log has already."""
        from mlperf_logging.compliance_checker import mlp_parser

        with self._lines.one():
            if os.path.exists(self._path):
                lines, _ = mlp_parser.parse_file(self._path, ruleset="4.0.0")
                return {
                    (line.key, json.dumps(line.value["value"]))
                    for line in lines
                }
        return set()


class _Appending(logging.Handler):
    """Adds a record to a file."""

    def __init__(self, path: str, attempts: Attempts):
        super().__init__()
        self._path = path
        self._attempts = attempts

    def emit(self, record: logging.LogRecord) -> None:
        with self._attempts.one():
            metrics_log.append(self._path, self.format(record) + "\n")


def start(config: Config, processes: Processes) -> NullMLPerfLog:
    """Starts the clock, if a log was asked for. A collective operation.

    Raises:
        ValueError: a package is not installed.
    """
    log = None
    if config.mlperf.mlperf_log:
        log = first_rank.call(processes, lambda: MLPerfLog(config))
    return log or NullMLPerfLog()


def _now_ms() -> int:
    return int(time.time() * 1e3)
