"""What a program has to do with the supervision of its ranks."""

import contextlib
import faulthandler
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import keras
from absl import logging

from hvd_imagenet.batches import Batches
from hvd_imagenet.distributed import is_exchange_failure
from hvd_imagenet.processes import Processes
from hvd_imagenet.supervision import addresses
from hvd_imagenet.supervision.center import LEAVE_SECONDS, Center
from hvd_imagenet.supervision.member import Member, connect
from hvd_imagenet.supervision.verdict import Heard, Mark, Verdict

# Of what went wrong, for the ranks that do not say it.
_LONGEST_TEXT = 1000
# For rank 0 to answer: it waits itself for others to go.
_ANSWER_SECONDS = 3 * LEAVE_SECONDS
# Horovod logs that it has lost a rank, and then fails what waits for an
# exchange: seldom later than a step.
_HOROVOD_SECONDS = 2.0


class Supervisor:
    """One rank of a job that ends as a whole.

    A rank that is lost, fails or stands still is named, by one rank and as the
    last thing, and all end with status 1. In an elastic job it ends alone.
    """

    def __init__(
        self,
        processes: Processes,
        timeout_seconds: float,
        *,
        ends_all: bool = True,
    ):
        """Connects all ranks to rank 0. A collective operation.

        Args:
            processes: the ranks.
            timeout_seconds: how long a rank may be silent or without progress;
                0 for as long as it likes.
            ends_all: whether the ranks that are not to blame end too.
        """
        self._ends_all = ends_all
        self._world = processes.world
        self._timeout = timeout_seconds or math.inf
        self._step = 0
        self._doing = "starting"
        self._taken_before = 0
        self._batches: Batches | None = None
        self._failed = threading.Event()
        self._verdict: Verdict | None = None
        self._answered = threading.Event()
        self._peer = self._join(processes)

    def _join(self, processes: Processes) -> Center | Member | None:
        world = self._world
        here = Heard(
            socket.gethostname(),
            os.getpid(),
            self.mark(),
            time.monotonic(),
            time.monotonic(),
        )
        common = {"timeout": self._timeout, "end": self._end}
        if world.size == 1:
            return Center(None, "", here, self.mark, **common)
        if world.is_first:
            listener = addresses.listen()
            token = secrets.token_hex(16)
            offer = addresses.offered(listener)
            peer = Center(listener, token, here, self.mark, **common)
            processes.broadcast_object((here.host, here.pid, offer, token))
        else:
            host, pid, offer, token = processes.broadcast_object(None)
            hello = {
                "token": token,
                "rank": world.rank,
                "host": here.host,
                "pid": here.pid,
            }
            lines = connect(offer, hello)
            center = Heard(host, pid, self.mark(), 0.0, 0.0)
            peer = lines and Member(lines, center, self.mark, **common)
        unreached = [
            place
            for place in processes.gather_object(
                None if peer else f"rank {world.rank} ({here.host})"
            )
            if place
        ]
        if unreached and world.is_first:
            logging.warning(
                "%s of the ranks, %s for one, cannot connect to rank 0 (%s);"
                " they will not be named where they are lost.",
                len(unreached),
                unreached[0],
                here.host,
            )
        return peer

    def at(self, step: int, doing: str) -> None:
        """Says how far this rank is.

        Args:
            step: number of the step, from 1.
            doing: what it does, for people.
        """
        self._step, self._doing = step, doing

    def watch(self, batches: Batches) -> None:
        """Takes the batches that are taken from now on for progress."""
        self._taken_before = self.mark().batches
        self._batches = batches

    def mark(self) -> Mark:
        """How far this rank is."""
        batches = self._batches
        if batches is None:
            return Mark(self._step, 0, self._doing)
        doing = "waiting for data" if batches.is_waiting else self._doing
        return Mark(self._step, self._taken_before + batches.taken, doing)

    def report(self, error: BaseException, *, is_echo: bool) -> bool:
        """Ends the other ranks because of an error here.

        Args:
            error: what has happened.
            is_echo: whether another rank may have caused it.

        Returns:
            Whether this rank is the one to say why.
        """
        if self._peer is None:
            return True
        self._failed.set()
        text = f"{type(error).__name__}: {error}"[:_LONGEST_TEXT]
        self._peer.say(**{"echo" if is_echo else "failure": text})
        self._answered.wait(_ANSWER_SECONDS)
        verdict = self._verdict
        if verdict is None:  # Nobody is there to answer.
            return True
        if verdict.text == text:
            return verdict.speaker == self._world.rank
        self._speak_if_asked(verdict)
        return False

    def close(self) -> None:
        """Ends in order. Every rank must come to it."""
        if self._peer is not None:
            self._peer.close()

    def _end(self, verdict: Verdict) -> None:
        """Ends this process; called in the thread of the supervision."""
        if verdict.is_stall and self._world.rank in {0, *verdict.ranks}:
            sys.stderr.write(f"where rank {self._world.rank} is:\n")
            sys.stderr.flush()
            faulthandler.dump_traceback()
        is_speaker = verdict.speaker == self._world.rank
        if is_speaker and self._ends_all:
            # To speak last, after what Horovod logs of ranks that have gone.
            self._failed.wait(_HOROVOD_SECONDS)
        if self._failed.is_set():
            # The main thread has more to say, or waits to go.
            self._verdict = verdict
            self._answered.set()
            return
        if not self._ends_all and self._world.rank not in verdict.ranks:
            return
        self._speak_if_asked(verdict)
        exit_now()

    def _speak_if_asked(self, verdict: Verdict) -> None:
        if verdict.speaker == self._world.rank:
            sys.stderr.write(f"error: {verdict.text}\n")


@contextlib.contextmanager
def supervised(
    processes: Processes,
    timeout_seconds: float,
    *,
    describe: Callable[[BaseException], str],
    passing: tuple[type[BaseException], ...] = (),
    ends_all: bool = True,
) -> Iterator[Supervisor]:
    """Supervises what is done in the `with` block, on all ranks.

    Of several processes none comes out of it by an error: all end with status
    1, and one says why.

    Args:
        processes: the ranks.
        timeout_seconds: see `Supervisor`.
        describe: makes the text to write of an error.
        passing: what ends the block in order, on all ranks together.
        ends_all: see `Supervisor`.
    """
    supervisor = Supervisor(processes, timeout_seconds, ends_all=ends_all)
    try:
        yield supervisor
    except passing:
        supervisor.close()
        raise
    except BaseException as error:
        world = processes.world
        if world.size == 1:
            supervisor.close()
            raise
        _ignore_termination()
        if supervisor.report(error, is_echo=is_exchange_failure(error)):
            sys.stderr.write(
                f"{describe(error)}\nThis was rank {world.rank}"
                f" ({socket.gethostname()}).\n"
            )
        exit_now()
    supervisor.close()


def _ignore_termination() -> None:
    """Lets this process end by itself, with what it has to say.

    Where one rank is lost, horovodrun sends SIGTERM to the others, often while
    they wait to hear which it was, and SIGKILL seconds later.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def exit_now() -> None:
    """Ends the process with status 1, whatever its threads wait for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class Progress(keras.callbacks.Callback):
    """Tells the supervisor which step begins; comes before all others."""

    def __init__(self, supervisor: Supervisor, batches: Batches):
        super().__init__()
        self._supervisor = supervisor
        self._batches = batches

    def on_train_begin(self, logs=None):
        self._supervisor.watch(self._batches)

    def on_train_batch_begin(self, batch, logs=None):
        self._supervisor.at(batch + 1, "training")

    def on_epoch_end(self, epoch, logs=None):
        self._supervisor.watch(self._batches)
