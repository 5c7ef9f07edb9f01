"""Whole jobs whose run directory is in use, or cannot be written."""

import contextlib
import sys

import pytest

import jobs
from hvd_imagenet import runlog
from hvd_imagenet.config import Config, RunConfig
from hvd_imagenet.run_lock import RunLock

_SYNTHETIC = (
    "--data_format=synthetic",
    "--train_images=64",
    "--validation_images=32",
)


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
    assert f"[0]<stderr>:error: {in_use}" in said
    assert f"[1]<stderr>:error: Rank 0 has ended the run: {in_use}" in said
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


def test_a_result_that_cannot_be_written_is_an_error_after_it(tmp_path):
    (tmp_path / "result.json").mkdir()
    finished = jobs.train(
        0,
        *_SYNTHETIC,
        "--batch_size_per_process=16",
        "--epochs=1",
        f"--workdir={tmp_path}",
        check=False,
    )
    assert finished.returncode == 1
    assert "result: top-1" in finished.stdout
    assert f"error: {tmp_path}/result.json could not be written" in (
        finished.stderr
    )
