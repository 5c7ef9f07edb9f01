"""Metrics that cannot be written end no training, and are counted."""

import json
import os
import shutil
import time

import pytest
from tensorboard.backend.event_processing import event_accumulator

import faults
from hvd_imagenet.metrics_log import MetricsLog
from hvd_imagenet.tensorboard_log import TensorBoardLog


class _Logs:
    """Both, of one run directory."""

    def __init__(self, directory, first_step):
        self._metrics = MetricsLog(str(directory), first_step)
        self._tensorboard = TensorBoardLog(str(directory / "tensorboard"))

    def add(self, steps):
        for step in steps:
            values = {"loss": 1.0 / step}
            self._metrics.add("train", step, values)
            self._tensorboard.curves("train", step, values)

    def close(self):
        self._tensorboard.close()
        return [self._metrics.losses, self._tensorboard.losses]


def _steps(directory):
    """What the file holds, every line of it whole."""
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert all(line.endswith("\n") for line in lines)
    return [json.loads(line)["step"] for line in lines]


def _curve(directory):
    """The steps that TensorBoard shows, of all its files."""
    steps = []
    for path in sorted((directory / "tensorboard" / "train").iterdir()):
        events = event_accumulator.EventAccumulator(
            str(path), size_guidance={"tensors": 0}
        )
        events.Reload()
        if "loss" in events.Tags()["tensors"]:
            steps += [event.step for event in events.Tensors("loss")]
    return steps


def test_a_full_disk_loses_what_falls_into_it_and_no_more(tmp_path, caplog):
    with faults.small_disk(tmp_path / "disk", "1m") as disk:
        log = _Logs(disk, 0)
        log.add(range(1, 11))
        ballast = faults.fill(disk)
        log.add(range(11, 1011))
        ballast.unlink()
        log.add(range(1011, 1021))
        losses = log.close()
        steps, curve = _steps(disk), _curve(disk)
        assert len(list((disk / "tensorboard" / "train").iterdir())) == 2
    # What fitted into the last pages was written.
    lost = 1020 - len(steps)
    assert lost > 500
    assert steps == [*range(1, 1011 - lost), *range(1011, 1021)]
    assert losses[0] == (
        f"{lost} of 1020 lines of metrics.jsonl could not be written (No space"
        " left on device)"
    )
    assert curve[:10] == [*range(1, 11)]
    assert curve[-10:] == [*range(1011, 1021)]
    assert losses[1].startswith(f"{1020 - len(curve)} of 1020 TensorBoard rec")
    assert "No space left on device" in losses[1]
    warnings = [r for r in caplog.records if "training goes on" in r.message]
    assert len(warnings) == 2


def test_files_that_may_not_grow(tmp_path):
    log = _Logs(tmp_path, 0)
    with faults.file_size_limit(4096):
        log.add(range(1, 200))
    log.add([200])
    losses = log.close()
    steps = _steps(tmp_path)
    assert steps == [*range(1, len(steps)), 200]
    assert f"{200 - len(steps)} of 200 lines" in losses[0]
    assert "File too large" in losses[0]
    assert "TensorBoard" in losses[1]
    assert _curve(tmp_path)[-1] == 200


def test_a_removed_directory_is_noticed(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    log = _Logs(directory, 0)
    log.add([1])
    shutil.rmtree(directory)
    directory.touch()  # In the way.
    log.add([2, 3])
    directory.unlink()
    directory.mkdir()
    log.add([4])
    losses = log.close()
    assert _steps(directory) == _curve(directory) == [4]
    assert [loss[:6] for loss in losses] == ["2 of 4", "2 of 4"]


def test_nothing_lost_is_nothing_said(tmp_path):
    log = _Logs(tmp_path, 0)
    log.add([1, 2])
    assert log.close() == ["", ""]
    assert _steps(tmp_path) == _curve(tmp_path) == [1, 2]


def test_every_line_says_when_it_was_measured(tmp_path):
    log = MetricsLog(str(tmp_path), 0)
    before = time.time()
    log.add("train", 1, {"loss": 1.0})
    after = time.time()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert int(before) <= record["timestamp"] <= after


@pytest.mark.parametrize(
    "damage", [b'{"kind": "tra', b"\xff\xfe\n", b"5\n", b"{}\n", b"\n"]
)
def test_a_resumed_run_drops_what_is_damaged_or_comes_again(tmp_path, damage):
    log = _Logs(tmp_path, 0)
    log.add([1, 2])
    path = tmp_path / "metrics.jsonl"
    with open(path, "ab") as file:
        file.write(damage)
    log.add([3, 4, 5])
    log.close()
    log = _Logs(tmp_path, 4)
    log.add([5])
    log.close()
    # Of a line that was cut, what was written behind it is gone too.
    cut = [3] if not damage.endswith(b"\n") else []
    assert _steps(tmp_path) == [s for s in (1, 2, 3, 4, 5) if s not in cut]
    assert not [name for name in os.listdir(tmp_path) if "tmp" in name]
