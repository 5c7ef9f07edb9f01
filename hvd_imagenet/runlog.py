"""The run directory: what a run was asked, planned, did and reached.

    run.flags         flagfile that repeats the run
    plan.json         its `Plan`
    environment.json  versions, machine and variables it ran with, and `starts`:
                      when, at which step and on how many processes it began
                      or went on
    metrics.jsonl     one JSON object per line, as it goes
    result.json       the final evaluation
    mlperf.log        with --mlperf_log, see mlperf_log.py
    lock              the process that writes all this, while it does
    checkpoints/      see checkpoints.py
    tensorboard/      curves, pictures and tables: train/ and validation/

Rank 0 writes it; the other ranks hold a `NullRunLog`.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from hvd_imagenet import atomic_files, flags, phases
from hvd_imagenet.attempts import Attempts
from hvd_imagenet.config import Config, require_same
from hvd_imagenet.metrics_log import MetricsLog
from hvd_imagenet.phases import Phases
from hvd_imagenet.plan import Plan
from hvd_imagenet.run_lock import RunLock
from hvd_imagenet.tensorboard_log import TensorBoardLog

_PACKAGES = (
    "hvd_imagenet",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "horovod",
    "numpy",
)
# In metrics.jsonl alone: TensorBoard's horizontal axis, and a constant.
_NO_CURVES = {"epoch", "examples"}


class NullRunLog:
    """Writes nothing."""

    def saved_phases(self) -> Phases | None:
        """The phases by which the run was last trained; None if it was not.

        Raises:
            ValueError: they cannot be read.
        """
        return None

    def begin(
        self, plan: Plan, environment: Mapping[str, Any], first_step: int
    ) -> None:
        """Writes what is known before the first step.

        Raises:
            NotWrittenError: it cannot be written.
        """

    def metrics(
        self, kind: str, step: int, values: Mapping[str, float]
    ) -> None:
        """Writes measured values, if it can.

        Args:
            kind: "train" or "validation".
            step: steps done.
            values: value by name.
        """

    def curves(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """As `metrics`, for TensorBoard alone."""

    def image(
        self, kind: str, name: str, step: int, pixels: np.ndarray
    ) -> None:
        """Shows a picture, [height, width, 3] uint8, RGB, in TensorBoard."""

    def text(self, kind: str, name: str, step: int, markdown: str) -> None:
        """Shows a text, as a table, in TensorBoard."""

    def line(self, text: str) -> None:
        """Prints a line for who watches."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes the result of the run.

        Raises:
            NotWrittenError: it cannot be written.
        """

    def close(self) -> None:
        """Says what was lost, and lets others have the directory."""


class RunLog(NullRunLog):
    """Writes a run directory, and resumes one."""

    def __init__(self, config: Config):
        """Makes the directory, or checks that it is of this recipe.

        No other process can have it until this is closed or ends.

        Raises:
            ValueError: no directory is given, it cannot be written, another
                run is writing it, or it is of another recipe.
        """
        self._config = config
        self._directory = config.run.workdir
        if self._directory is None:
            raise ValueError(
                "--workdir is not given; name a directory for the run's"
                " checkpoints, metrics and TensorBoard."
            )
        self._lock = self._take_directory()
        try:
            self._require_same_recipe()
        except ValueError:
            self._lock.release()
            raise
        self._metrics: MetricsLog | None = None
        self._tensorboard = TensorBoardLog(self._path("tensorboard"))
        # A terminal may be gone, or a full disk behind the output.
        self._lines = Attempts("lines of output")

    def saved_phases(self) -> Phases | None:
        path = self._path("plan.json")
        try:
            with open(path, encoding="utf-8") as file:
                return phases.read(file.read())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}), which says what the"
                " checkpoints beside it have seen; choose another --workdir."
            ) from error

    def begin(
        self, plan: Plan, environment: Mapping[str, Any], first_step: int
    ) -> None:
        command = shlex.join(sys.orig_argv[1:]).replace("\n", " ")
        self._write("run.flags", f"# {command}\n{flags.to_text(self._config)}")
        self._write("plan.json", plan.as_json() + "\n")
        facts = {**describe_machine(), **environment}
        start = {
            "time": facts["started"],
            "step": first_step,
            "processes": plan.world_size,
        }
        facts["starts"] = [*self._earlier_starts(), start]
        self._write("environment.json", json.dumps(facts, indent=2) + "\n")
        self._metrics = MetricsLog(self._directory, first_step)
        self._tensorboard.begin(self._config.recipe())

    def metrics(
        self, kind: str, step: int, values: Mapping[str, float]
    ) -> None:
        self._metrics.add(kind, step, values)
        names = values.keys() - _NO_CURVES
        self.curves(kind, step, {name: values[name] for name in names})

    def curves(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._tensorboard.curves(kind, step, values)

    def image(
        self, kind: str, name: str, step: int, pixels: np.ndarray
    ) -> None:
        self._tensorboard.image(kind, name, step, pixels)

    def text(self, kind: str, name: str, step: int, markdown: str) -> None:
        self._tensorboard.text(kind, name, step, markdown)

    def line(self, text: str) -> None:
        with self._lines.one():
            # Above the line that shows the progress, if there is one.
            tqdm.tqdm.write(text)
            sys.stdout.flush()

    def finish(self, result: Mapping[str, Any]) -> None:
        self._tensorboard.end()
        self._write("result.json", json.dumps(dict(result), indent=2) + "\n")

    def close(self) -> None:
        self._tensorboard.close()
        losses = [self._lines.losses, self._tensorboard.losses]
        if self._metrics is not None:
            losses.append(self._metrics.losses)
        if any(losses):
            logging.warning("Lost: %s.", "; ".join(filter(None, losses)))
        self._lock.release()

    def _earlier_starts(self) -> list:
        """When and where the run was begun before, as far as can be read."""
        try:
            with open(self._path("environment.json"), "rb") as file:
                return list(json.load(file)["starts"])
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _path(self, *names: str) -> str:
        return os.path.join(self._directory, *names)

    def _write(self, name: str, text: str) -> None:
        atomic_files.write_text(self._path(name), text)

    def _take_directory(self) -> RunLock:
        try:
            os.makedirs(self._directory, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._directory):
                pass
            return RunLock(self._directory)
        except OSError as error:
            raise ValueError(
                f"--workdir={self._directory} cannot be written"
                f" ({error.strerror}); choose another, or change its owner."
            ) from error

    def _require_same_recipe(self) -> None:
        path = self._path("run.flags")
        if not os.path.exists(path):
            return
        saved = flags.read(path)
        require_same(saved.recipe(), self._config.recipe(), self._directory)


def describe_machine() -> dict[str, Any]:
    """Versions, machine and time, for `environment.json`."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec="seconds"
        ),
        "command": sys.orig_argv,
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [
            tf.config.experimental.get_device_details(gpu).get("device_name")
            for gpu in tf.config.list_physical_devices("GPU")
        ],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
