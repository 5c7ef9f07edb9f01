"""Whole jobs whose run directory is in use, or cannot be written."""

import contextlib
import signal
import subprocess
import sys
import time

import pytest

import jobs
from hvd_imagenet import checkpoints, runlog
from hvd_imagenet.config import Config, RunConfig
from hvd_imagenet.run_lock import RunLock

_SYNTHETIC = (
    "--data_format=synthetic",
    "--train_images=64",
    "--validation_images=32",
)
# A process that may write metrics, but no file as large as a checkpoint.
_LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({16 << 20}, {16 << 20}))
from hvd_imagenet import train
train.run()
"""


@pytest.mark.horovod
def test_all_ranks_learn_that_the_directory_is_in_use(tmp_path):
    lock = RunLock(str(tmp_path))
    try:
        finished = jobs.train(
            2,
            *_SYNTHETIC,
            f"--workdir={tmp_path}",
            check=False,
        )
    finally:
        lock.release()
    assert finished.returncode != 0
    said = finished.stdout + finished.stderr
    in_use = f"--workdir={tmp_path} is in use by process "
    # One of them says so, and all end.
    assert said.count(in_use) == 1
    assert "<stderr>:Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_output_that_nobody_takes_ends_nothing(tmp_path, monkeypatch, caplog):
    log = runlog.RunLog(Config(run=RunConfig(workdir=str(tmp_path))))
    full = open("/dev/full", "w")
    monkeypatch.setattr(sys, "stdout", full)
    log.line("one")
    log.line("two")
    log.close()
    with contextlib.suppress(OSError):
        full.close()
    assert "Lost: 2 of 2 lines of output could not be written" in caplog.text


def test_a_run_without_room_for_checkpoints_trains_and_then_fails(tmp_path):
    # In the way of the last file too.
    (tmp_path / "result.json").mkdir()
    finished = jobs.run(
        0,
        "-c",
        _LIMITED,
        *jobs.TINY,
        *_SYNTHETIC,
        "--batch_size_per_process=16",
        "--epochs=1",
        "--checkpoint_steps=3",
        f"--workdir={tmp_path}",
        check=False,
    )
    assert finished.returncode == 1
    for step in (3, 4):
        assert f"The checkpoint of step {step} is not there" in finished.stderr
    last = finished.stderr.splitlines()[-1]
    for words in (
        f"error: {tmp_path}/result.json could not be written: renaming",
        "; The last checkpoint, of step 4, is not there: ",
        "(File too large). There is none before",
    ):
        assert words in last
    assert "Traceback" not in finished.stderr
    # All the rest is there, and nothing that is half.
    assert len(jobs.metrics(tmp_path)) == 4
    assert "result: top-1" in finished.stdout
    assert not list(tmp_path.glob("*.tmp"))
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert (tmp_path / "lock").read_text() == ""


def test_ctrl_c_lets_what_was_begun_be_finished(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hvd_imagenet.train",
            *jobs.TINY,
            *_SYNTHETIC,
            "--batch_size_per_process=16",
            "--epochs=90",
            "--checkpoint_steps=1",
            "--keep_checkpoints=100",
            f"--workdir={tmp_path}",
        ],
        env=jobs.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + jobs.TIMEOUT_SECONDS
        while not (begun := list(tmp_path.glob("checkpoints/*.tmp"))):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=jobs.TIMEOUT_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 75, stderr
    assert not list(tmp_path.glob("checkpoints/*.tmp"))
    path = begun[0].with_name(begun[0].name.partition(".npz")[0] + ".npz")
    assert checkpoints.read(str(path)).facts["num_classes"] == 10
    assert (tmp_path / "lock").read_text() == ""
