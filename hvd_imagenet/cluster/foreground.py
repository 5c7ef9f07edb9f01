"""Runs one program in the foreground and ends it when asked to end."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# horovodrun gives its processes 5 seconds to end, twice.
_GRACE_SECONDS = 30
_POLL_SECONDS = 0.1


class Stopped(Exception):
    """A signal stopped the program.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.signal = number


def run(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    grace_seconds: float = _GRACE_SECONDS,
    *,
    timeout_seconds: float | None = None,
    stdout: IO | None = None,
    stderr: IO | None = None,
) -> int:
    """Runs a program to its end.

    SIGINT, SIGTERM and SIGHUP, or the end of its time, ask it and its children
    to end, once. Those that have not ended a while later are killed.

    Args:
        arguments: the program and its arguments.
        environ: its environment variables.
        grace_seconds: time to end after a signal.
        timeout_seconds: time to run; None for as long as it takes.
        stdout: file for its output; None for our own.
        stderr: the same for its errors.

    Returns:
        Its exit status; 128 and the signal's number if a signal ended it.

    Raises:
        Stopped: one of the signals came, and the program has ended.
        TimeoutError: its time was over, and it has ended.
    """
    with _raised():
        # In a group of its own: a terminal would send Ctrl-C to both, and
        # mpirun takes a second one for an order to leave at once.
        process = subprocess.Popen(
            arguments,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout_seconds)
        except Stopped:
            _end(process, grace_seconds)
            raise
        except subprocess.TimeoutExpired as error:
            _end(process, grace_seconds)
            raise TimeoutError(
                f"it had not ended after {timeout_seconds:g} seconds"
            ) from error
    return status if status >= 0 else 128 - status


def _end(process: subprocess.Popen, grace_seconds: float) -> None:
    """Ends the program and all that it started in its group."""
    try:
        # To the group: for MPI, horovodrun becomes a shell that would die of
        # it alone and leave mpirun behind.
        _send(process, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while _send(process, 0) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    finally:
        # After a second signal, too.
        _send(process, signal.SIGKILL)
        process.wait()


def _send(process: subprocess.Popen, number: int) -> bool:
    """Signals the program's group; returns whether anybody is left in it."""
    process.poll()  # A program that has ended counts until it is asked for.
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _raised() -> Iterator[None]:
    """Makes the signals exceptions, but for those that are ignored."""

    def stop(number, _):
        raise Stopped(number)

    before = {}
    try:
        for number in _SIGNALS:
            # nohup ignores SIGHUP for us.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
