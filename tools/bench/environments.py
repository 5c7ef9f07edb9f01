"""Environments of ours that are compared: each has its own TensorFlow."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

_VERSION = """
from importlib import metadata
try:
    print(metadata.version("tensorflow-cpu"))
except metadata.PackageNotFoundError:
    print(metadata.version("tensorflow"))
"""

_SECONDS = 1800

_FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "other_python",
    [],
    "Another Python with this package and another TensorFlow, to compare with;"
    " may be repeated. Example: .venv-2.21.0/bin/python.",
)


def pythons() -> dict[str, str]:
    """This Python and the other ones, by what their results are called."""
    return {
        f"TF {_version(python)}": python
        for python in (sys.executable, *_FLAGS.other_python)
    }


def variables(python: str) -> dict[str, str]:
    """The environment in which commands of a Python run."""
    bin_folder = os.path.dirname(os.path.abspath(python))
    return os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}


def result(command: Sequence[str], python: str, key: str) -> dict[str, Any]:
    """Runs a command; the JSON object with this key that it prints."""
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        env=variables(python),
    )
    if finished.returncode:
        raise RuntimeError(f"{command} failed: {finished.stderr}")
    # horovodrun puts the rank before each line.
    (line,) = (
        line[line.index("{") :]
        for line in finished.stdout.splitlines()
        if f'"{key}"' in line
    )
    return json.loads(line)


def _version(python: str) -> str:
    finished = subprocess.run(
        [python, "-c", _VERSION], capture_output=True, text=True, check=True
    )
    return finished.stdout.strip()
