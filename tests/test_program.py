"""How programs begin."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import os, sys
from hvd_imagenet import program

def main(config):
    # It is read when TensorFlow is imported.
    assert "tensorflow" not in sys.modules
    print(os.environ["TF_ENABLE_ONEDNN_OPTS"])

program.run(main)
"""


@pytest.mark.parametrize("said", [None, "0"])
def test_onednn_is_taken_unless_the_environment_says_otherwise(said):
    name = "TF_ENABLE_ONEDNN_OPTS"
    environ = {k: v for k, v in os.environ.items() if k != name}
    if said is not None:
        environ[name] = said
    finished = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == (said or "1")
