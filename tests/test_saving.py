"""Checkpoints written behind the training, and what keeps them from it."""

import contextlib
import os
import threading
import time

import keras
import numpy as np
import pytest

import faults
from hvd_imagenet import saving
from hvd_imagenet.atomic_files import NotWrittenError
from hvd_imagenet.checkpoints import Checkpoints
from hvd_imagenet.config import Config
from hvd_imagenet.plan import make_plan

_FACTS = {"model": "tiny"}


def _variables(size=100_000):
    return [
        keras.Variable(np.zeros(size, np.float32), name="weights"),
        keras.Variable(0, dtype="int64", name="iteration"),
    ]


def _set(variables, value):
    for variable in variables:
        variable.assign(np.full(variable.shape, value, variable.dtype))


def _saver(directory, variables, **patience):
    return saving.Saver(
        Checkpoints(str(directory), keep=3), variables, _FACTS, **patience
    )


def _assert_newest(directory, step, value):
    saved = Checkpoints(str(directory), keep=3).newest()
    assert (saved.step, saved.facts) == (step, _FACTS)
    assert saved.arrays["iteration"].dtype == np.int64
    for array in saved.arrays.values():
        np.testing.assert_array_equal(array, np.full(array.shape, value))


def test_it_saves_what_was_there_at_the_call(tmp_path):
    variables = _variables(2_000_000)
    saver = _saver(tmp_path, variables)
    for step in range(1, 6):
        _set(variables, step)
        saver.save(step)
        _set(variables, -1)
    saver.require_saved()
    assert len(os.listdir(tmp_path)) == 3
    for step in (5, 4, 3):
        _assert_newest(tmp_path, step, step)
        (tmp_path / f"step_{step:08d}.npz").unlink()


def test_one_that_fails_is_warned_of_and_the_next_is_tried(tmp_path, caplog):
    variables = _variables()
    saver = _saver(tmp_path, variables)
    saver.save(1)
    saver.wait()
    with faults.file_size_limit(100_000):
        saver.save(2)
        saver.wait()
        for words in (
            "The checkpoint of step 2 is not there",
            "writing",
            "File too large",
            "step_00000001.npz stays",
            "training goes on and tries again at the next checkpoint",
        ):
            assert words in caplog.text
        with pytest.raises(
            NotWrittenError,
            match=r"The last checkpoint, of step 2, .*\(File too large\)\. "
            r"\S*step_00000001.npz stays",
        ):
            saver.require_saved()
    assert os.listdir(tmp_path) == ["step_00000001.npz"]
    _set(variables, 3)
    saver.save(3)
    saver.require_saved()
    _assert_newest(tmp_path, 3, 3)


def test_without_any_before_that_is_said(tmp_path):
    saver = _saver(tmp_path, _variables())
    with faults.file_size_limit(100_000):
        saver.save(1)
        with pytest.raises(NotWrittenError, match="There is none before"):
            saver.require_saved()


def test_a_disk_that_does_not_answer_holds_training_up_once(tmp_path, caplog):
    variables = _variables()
    saver = _saver(tmp_path, variables, patience_seconds=1.0)
    saver.save(1)
    saver.wait()
    # To open it blocks until somebody reads.
    stuck = tmp_path / f"step_00000002.npz.{os.getpid()}.tmp"
    os.mkfifo(stuck)
    saver.save(2)
    begun = time.monotonic()
    saver.save(3)
    assert 0.5 < time.monotonic() - begun < 30
    assert "checkpoint of step 2 is not there: not done after 1 s" in (
        caplog.text
    )
    begun = time.monotonic()
    saver.save(4)
    assert time.monotonic() - begun < 0.5
    assert "step 4 is not there: the one before is still being written" in (
        caplog.text
    )
    with pytest.raises(NotWrittenError, match=r"of step 4, .*00001.npz stays"):
        saver.require_saved()
    with open(stuck, "rb") as file, contextlib.suppress(OSError):
        file.read()
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join(60)
    _set(variables, 5)
    saver.save(5)
    saver.require_saved()
    _assert_newest(tmp_path, 5, 5)


def test_a_fault_of_the_program_is_not_lost(tmp_path, caplog):
    saver = saving.Saver(
        Checkpoints(str(tmp_path), keep=1), _variables(), {"no": {"json"}}
    )
    saver.save(1)
    saver.wait()
    assert "not JSON serializable" in caplog.text
    with pytest.raises(TypeError, match="not JSON serializable"):
        saver.save(2)
    saver.require_saved()  # Said once.
    assert os.listdir(tmp_path) == []


class _Seen(saving.NullSaver):
    """Also what shares the statistics."""

    def __init__(self):
        self.calls = []

    def sync_statistics(self):
        self.calls.append("sync")

    def save(self, step):
        self.calls.append(step)


def test_every_checkpoint_is_written_once():
    # Ten steps an epoch, so that epochs end with and between `every_steps`.
    plan = make_plan(
        Config(), world_size=1, train_images=320, validation_images=1
    )
    seen = _Seen()
    callback = saving.SaveCheckpoints(seen, seen, plan, every_steps=4)
    for step in range(plan.epoch_end_step(1)):
        callback.on_train_batch_end(step)
    expected = [4, 8, 10, 12, 16, 20]
    assert seen.calls == [x for step in expected for x in ("sync", step)]
