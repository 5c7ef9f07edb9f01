"""One program in the foreground: its status, and its end by a signal."""

import os
import signal
import sys
import time
import uuid

import pytest

import jobs
from hvd_imagenet.cluster import foreground


def _python(program):
    return [sys.executable, "-c", f"import os, signal, time; {program}"]


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("raise SystemExit(7)", 7),
        ("pass", 0),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9),
    ],
)
def test_the_exit_status_is_the_programs(program, status):
    assert foreground.run(_python(program), os.environ) == status


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_program(name):
    begun = time.monotonic()
    with pytest.raises(foreground.Stopped) as caught:
        foreground.run(
            _python(f"os.kill(os.getppid(), signal.{name}); time.sleep(60)"),
            os.environ,
        )
    assert caught.value.signal == getattr(signal, name)
    assert time.monotonic() - begun < 20


# A shell as horovodrun becomes for MPI: it dies of SIGTERM before its child.
_SHELL_AND_CHILD = """
launcher = os.getppid()
if not os.fork():
    signal.signal(signal.SIGTERM, {child})
    os.kill(launcher, signal.SIGINT)
time.sleep(60)
"""


def test_the_end_of_its_children_is_waited_for(tmp_path):
    program = (
        "import os, pathlib, signal, time\n"
        f"def end(*_): time.sleep(1); pathlib.Path({str(tmp_path)!r},"
        " 'ended').touch(); os._exit(0)\n"
        + _SHELL_AND_CHILD.format(child="end")
    )
    with pytest.raises(foreground.Stopped):
        foreground.run([sys.executable, "-c", program], os.environ)
    assert (tmp_path / "ended").exists()


def test_children_that_do_not_end_are_killed():
    mark = uuid.uuid4().hex
    program = "import os, signal, time\n" + _SHELL_AND_CHILD.format(
        child="signal.SIG_IGN"
    )
    begun = time.monotonic()
    with pytest.raises(foreground.Stopped):
        foreground.run(
            [sys.executable, "-c", program, mark],
            os.environ,
            grace_seconds=0.5,
        )
    assert time.monotonic() - begun < 20
    while any(mark in words for _, words in jobs.processes()):
        assert time.monotonic() - begun < 40
        time.sleep(0.05)


def test_a_program_has_its_time_and_its_files(tmp_path):
    program = "print(1, flush=True); os.system('echo 2 >&2'); time.sleep(60)"
    begun = time.monotonic()
    with (
        open(tmp_path / "out", "w") as stdout,
        open(tmp_path / "err", "w") as stderr,
        pytest.raises(TimeoutError, match="had not ended after 2 seconds"),
    ):
        foreground.run(
            _python(program),
            os.environ,
            timeout_seconds=2,
            stdout=stdout,
            stderr=stderr,
        )
    assert time.monotonic() - begun < 20
    assert (tmp_path / "out").read_text() == "1\n"
    assert (tmp_path / "err").read_text() == "2\n"
