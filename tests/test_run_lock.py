"""A work directory has one run at a time, and none after kill -9."""

import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from hvd_imagenet.run_lock import RunLock

# Takes the directory, says so, and holds it until its input ends.
_OWNER = """
import sys
from hvd_imagenet.run_lock import RunLock
try:
    lock = RunLock(sys.argv[1])
except ValueError as error:
    sys.exit(str(error))
print("mine", flush=True)
sys.stdin.read()
lock.release()
"""


@contextlib.contextmanager
def _owners(directory, count):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_of_those_that_race_one_wins_and_the_others_name_it(tmp_path):
    with _owners(tmp_path, 4) as processes:
        said = [process.stdout.readline() for process in processes]
        assert sorted(said) == ["", "", "", "mine\n"]
        winner = processes[said.index("mine\n")]
        for process in processes:
            if process is not winner:
                _, message = process.communicate(timeout=60)
                assert re.fullmatch(
                    rf"--workdir={tmp_path} is in use by process {winner.pid}"
                    rf" on {socket.gethostname()} since 20\d\d-\S+; wait for"
                    r" its end, or choose another --workdir\.\n",
                    message,
                )
        # To the end, and no longer.
        with pytest.raises(ValueError, match=f"process {winner.pid} on"):
            RunLock(str(tmp_path))
        winner.communicate(timeout=60)
        assert winner.returncode == 0
    RunLock(str(tmp_path)).release()
    assert (tmp_path / "lock").read_text() == ""


def test_kill_9_frees_it(tmp_path):
    with _owners(tmp_path, 1) as (process,):
        assert process.stdout.readline() == "mine\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # What it wrote is there, and is not what counts.
        assert str(process.pid) in (tmp_path / "lock").read_text()
        lock = RunLock(str(tmp_path))
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
        lock.release()


def test_children_do_not_hold_it(tmp_path):
    lock = RunLock(str(tmp_path))
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        try:
            lock.release()
            RunLock(str(tmp_path)).release()
        finally:
            child.kill()


def test_an_owner_that_does_not_say_who_it_is(tmp_path):
    with open(tmp_path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        begun = time.monotonic()
        with pytest.raises(ValueError, match="is in use by another run"):
            RunLock(str(tmp_path))
        assert time.monotonic() - begun < 30


def test_a_file_system_without_locks_is_warned_of(
    tmp_path, monkeypatch, caplog
):
    # None is at hand, so what flock answers there is played.
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    RunLock(str(tmp_path)).release()
    assert "cannot be locked (No locks available)" in caplog.text
