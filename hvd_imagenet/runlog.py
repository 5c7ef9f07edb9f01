"""The run directory: what a run was asked, planned, did and reached.

    run.flags         flagfile that repeats the run
    plan.json         its `Plan`
    environment.json  versions, hosts and variables it ran with
    metrics.jsonl     one JSON object per line, as it goes
    result.json       the final evaluation
    checkpoints/      see checkpoints.py
    tensorboard/      train/ and validation/

Rank 0 writes it; the other ranks hold a `NullRunLog`.
"""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from hvd_imagenet import flags
from hvd_imagenet.config import Config, require_same
from hvd_imagenet.plan import Plan

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

    def begin(
        self, plan: Plan, environment: Mapping[str, Any], first_step: int
    ) -> None:
        """Writes what is known before the first step."""

    def metrics(
        self, kind: str, step: int, values: Mapping[str, float]
    ) -> None:
        """Writes measured values.

        Args:
            kind: "train" or "validation".
            step: steps done.
            values: value by name.
        """

    def line(self, text: str) -> None:
        """Prints a line for who watches."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes the result of the run."""

    def close(self) -> None:
        """Writes out what is buffered."""


class RunLog(NullRunLog):
    """Writes a run directory, and resumes one."""

    def __init__(self, config: Config):
        """Makes the directory, or checks that it is of this recipe.

        Raises:
            ValueError: no directory is given, it cannot be written, or it is
                of another recipe.
        """
        self._config = config
        self._directory = config.run.workdir
        if self._directory is None:
            raise ValueError(
                "--workdir is not given; name a directory for the run's"
                " checkpoints, metrics and TensorBoard."
            )
        self._require_writable()
        self._require_same_recipe()
        self._writers = {}
        self._metrics = None

    def begin(
        self, plan: Plan, environment: Mapping[str, Any], first_step: int
    ) -> None:
        command = shlex.join(sys.orig_argv[1:]).replace("\n", " ")
        self._write("run.flags", f"# {command}\n{flags.to_text(self._config)}")
        self._write("plan.json", plan.as_json() + "\n")
        facts = {**describe_machine(), **environment}
        self._write("environment.json", json.dumps(facts, indent=2) + "\n")
        self._forget_metrics_after(first_step)
        self._metrics = open(self._path("metrics.jsonl"), "a", encoding="utf-8")
        for kind in ("train", "validation"):
            self._writers[kind] = tf.summary.create_file_writer(
                self._path("tensorboard", kind)
            )

    def metrics(
        self, kind: str, step: int, values: Mapping[str, float]
    ) -> None:
        record = {"kind": kind, "step": step, **values}
        # JSON has no nan; a diverged loss must not make the file unreadable.
        record = {
            name: None
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for name, value in record.items()
        }
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()
        with self._writers[kind].as_default(step):
            for name in values.keys() - _NO_CURVES:
                tf.summary.scalar(name, values[name])

    def line(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def finish(self, result: Mapping[str, Any]) -> None:
        self._write("result.json", json.dumps(dict(result), indent=2) + "\n")

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        if self._metrics is not None:
            self._metrics.close()

    def _path(self, *names: str) -> str:
        return os.path.join(self._directory, *names)

    def _write(self, name: str, text: str) -> None:
        temporary = self._path(f"{name}.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, self._path(name))

    def _require_writable(self) -> None:
        try:
            os.makedirs(self._directory, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._directory):
                pass
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

    def _forget_metrics_after(self, step: int) -> None:
        """Drops what a resumed run will measure again."""
        path = self._path("metrics.jsonl")
        if not os.path.exists(path):
            return
        kept = []
        with open(path, encoding="utf-8") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    # The epoch that ends here will be evaluated again.
                    last = step - (record["kind"] == "validation")
                    if record["step"] <= last:
                        kept.append(line)
                except (ValueError, KeyError):
                    break  # The line that was being written at the end.
        self._write("metrics.jsonl", "".join(kept))


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
