"""Starts real training jobs, of one process or under horovodrun."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from hvd_imagenet.cluster import host_facts

# Generous for two busy cores, and still an end to a job that hangs.
TIMEOUT_SECONDS = 300

# A real network, small enough for a CPU; every option can be overridden.
TINY = (
    "--model=resnet10",
    "--image_size=32",
    "--num_classes=10",
    "--warmup_epochs=0",
    "--base_learning_rate=0.03",
    "--horizontal_flip=false",
    "--log_steps=1",
)

# 8 steps of 4 micro-batches of 32 images, the last reaching into the next
# epoch, and a validation split that neither 2 nor 4 ranks cut into whole
# batches: of the data set `patterns`.
RECIPE = (
    "--global_batch_size=128",
    "--batch_size_per_process=32",
    "--epochs=1",
    "--crop_area_min=0.6",
    "--evaluation_batch_size_per_process=50",
    "--checkpoint_steps=3",
    "--keep_checkpoints=10",
)
RECIPE_STEPS = 8

# As where an image is built; Gloo does not run there either.
needs_own_name = pytest.mark.skipif(
    not host_facts.resolves(socket.gethostname()),
    reason="this host does not know the address of its own name",
)


def run(
    processes: int, *command: str, check: bool = True, **variables: str
) -> subprocess.CompletedProcess:
    """Runs a Python command line in `processes` ranks; 0 for no launcher.

    Args:
        processes: ranks, all on this host.
        *command: arguments of the Python interpreter.
        check: whether to fail unless it exits with 0.
        **variables: of the environment, to set.

    Returns:
        The finished process; stdout has the output of all ranks.
    """
    launcher = []
    if processes:
        launcher = [
            "horovodrun",
            # Unasked, it imports TensorFlow once more to look for MPI.
            "--gloo",
            "-np",
            str(processes),
            "-H",
            f"localhost:{processes}",
        ]
    process = subprocess.Popen(
        [*launcher, sys.executable, *command],
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    except BaseException:
        # The ranks too, which horovodrun would leave behind.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finished = subprocess.CompletedProcess(
        process.args, process.returncode, stdout, stderr
    )
    if check and finished.returncode:
        raise AssertionError(
            f"{finished.args} exited with {finished.returncode}\n"
            f"{stdout[-4000:]}\n{stderr[-8000:]}"
        )
    return finished


def train(
    processes: int, *flags: str, check: bool = True, **variables: str
) -> subprocess.CompletedProcess:
    """Runs the training program with the tiny network."""
    return run(
        processes,
        "-m",
        "hvd_imagenet.train",
        *TINY,
        *flags,
        check=check,
        **variables,
    )


def metrics(workdir: pathlib.Path, kind: str = "train") -> list[dict]:
    """The metrics of a run of one kind, in order."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        record for record in map(json.loads, lines) if record["kind"] == kind
    ]


def result(workdir: pathlib.Path) -> dict:
    """The result of a run."""
    return json.loads((workdir / "result.json").read_text())


def environment() -> dict[str, str]:
    """The variables that jobs run with."""
    # The interpreter's own folder first, for horovodrun.
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PATH": path}


def own_lines(text: str) -> list[str]:
    """What a program has written, without TensorFlow's own log.

    TensorFlow 2.21 tells of oneDNN before it reads how quiet it is to be.
    """
    of_tensorflow = re.compile(r"WARNING: All log messages before|[IWE]0000 ")
    return [
        line
        for line in text.strip().splitlines()
        if not of_tensorflow.match(line)
    ]


def processes():
    """All processes of this host, with the words of their command lines."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # It has just ended.
            yield process, process.cmdline()
