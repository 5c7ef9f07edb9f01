"""Work over processes: all of it, its errors, and their ends."""

import os
import signal
import time

import pytest

from hvd_imagenet.packing import farm


def _square(task, tell):
    tell(task)
    return os.getpid(), task * task


def _fail(task, tell):
    if task == 3:
        raise ValueError("three is refused.")
    time.sleep(60)


def _bug(task, tell):
    return task.missing


def _die(task, tell):
    os.kill(os.getpid(), signal.SIGKILL)


def _run(work, tasks, processes):
    told, results = [], []
    farm.run(
        work,
        tasks,
        processes,
        on_progress=told.append,
        on_result=results.append,
    )
    return told, results


@pytest.mark.parametrize("processes", [1, 2])
def test_every_task_is_done_once(processes):
    told, results = _run(_square, range(20), processes)
    assert sorted(told) == list(range(20))
    assert sorted(value for _, value in results) == [n * n for n in range(20)]
    workers = {process for process, _ in results}
    assert (os.getpid() in workers) == (processes == 1)
    assert len(workers) <= processes


def test_an_error_ends_all():
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"^three is refused\.$"):
        _run(_fail, range(2, 6), 2)
    assert time.monotonic() - start < 50


@pytest.mark.parametrize(
    ("work", "message"),
    [(_bug, "has no attribute 'missing'"), (_die, "exit code -9")],
)
def test_what_nobody_expects_is_an_error(work, message):
    with pytest.raises(RuntimeError, match=message):
        _run(work, range(4), 2)


def test_silence_has_a_limit(monkeypatch):
    monkeypatch.setattr(farm, "_SILENCE_SECONDS", 0.5)
    with pytest.raises(TimeoutError, match="nothing was heard"):
        _run(_fail, range(4, 6), 2)
