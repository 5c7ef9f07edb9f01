"""Who is blamed, and that ranks hear of it. Whole jobs: test_faults.py."""

import contextlib
import pathlib
import queue
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

from hvd_imagenet.supervision import addresses
from hvd_imagenet.supervision import member as member_lib
from hvd_imagenet.supervision.center import Center
from hvd_imagenet.supervision.member import Member, connect
from hvd_imagenet.supervision.verdict import Heard, Mark, judge

_TOKEN = "a token"
# What a busy machine may take to do what takes no time.
_SOON = 20


def _heard(step=5, batches=10, *, marked=100.0, heard=100.0, **more):
    mark = Mark(step, batches, "training")
    return Heard("host7", 123, mark, marked, heard, **more)


def _judge(*ranks, now=100.0, timeout=30.0):
    return judge(dict(enumerate(ranks)), now, timeout)


def test_ranks_that_go_on_are_not_blamed():
    assert _judge(_heard(), _heard()) is None
    # One that goes on is enough: the others may wait for it.
    assert _judge(_heard(marked=0.0), _heard(), _heard(marked=0.0)) is None
    assert _judge(_heard(marked=70.0), _heard(marked=70.0)) is None


def test_the_first_failure_is_told_by_its_own_rank():
    blamed = _judge(_heard(is_gone=True), _heard(), _heard(failure="it broke"))
    assert (blamed.ranks, blamed.speaker, blamed.text) == ([2], 2, "it broke")
    assert not blamed.is_stall


def test_a_lost_rank_is_named_with_host_process_and_step():
    blamed = _judge(_heard(), _heard(is_gone=True), _heard(is_gone=True))
    assert (blamed.ranks, blamed.speaker) == ([1, 2], 0)
    assert blamed.text.startswith(
        "rank 1 (host7, process 123) and 1 more has ended without a word"
    )
    assert "Last heard: training, step 5." in blamed.text


def test_a_silent_rank_is_named():
    assert _judge(_heard(), _heard(heard=70.0)) is None
    blamed = _judge(_heard(), _heard(heard=69.0))
    assert (blamed.ranks, blamed.is_stall) == ([1], True)
    assert "has not been heard of for 31 s" in blamed.text


@pytest.mark.parametrize(
    ("ranks", "blamed"),
    [
        # Behind by a step, or by a batch of one: the others wait for it.
        ([(5, 10), (5, 10), (4, 8)], [2]),
        ([(5, 9), (5, 10), (5, 9)], [0, 2]),
        ([(5, 10), (5, 10)], [0, 1]),
        ([(5, 10)], [0]),
        # It is not known how long it takes to begin.
        ([(0, 0), (5, 10)], None),
    ],
)
def test_where_nobody_goes_on_those_behind_are_named(ranks, blamed):
    heard = [_heard(*mark, marked=60.0) for mark in ranks]
    found = _judge(*heard)
    assert (found and found.ranks) == blamed
    if found:
        assert found.is_stall
        assert "has made no progress for 30 s" in found.text
        assert ("the others wait" in found.text) == (len(blamed) < len(ranks))


def test_a_silence_explains_why_nobody_goes_on():
    # Frozen after it began the step, as the others did.
    frozen = _heard(marked=60.0, heard=75.0)
    blamed = _judge(_heard(marked=60.0), frozen)
    assert blamed.ranks == [1]
    assert "not been heard of for 25 s" in blamed.text


def test_a_failed_exchange_is_told_if_nothing_explains_it():
    echo = {"echo": "no route", "echoed": 100.0}
    ranks = (_heard(heard=104.0), _heard(heard=104.0, **echo))
    assert _judge(*ranks, now=104.0) is None
    blamed = _judge(*ranks, now=105.0)
    assert (blamed.speaker, blamed.text) == (1, "no route")
    # A silence explains it, long before it is too long by itself.
    silent = (_heard(heard=100.0), _heard(heard=105.0, **echo))
    blamed = _judge(*silent, now=105.0)
    assert (blamed.ranks, blamed.speaker) == ([0], 0)
    assert "not been heard of for 5 s" in blamed.text
    # And a lost rank at once.
    lost = (_heard(is_gone=True), _heard(**echo))
    assert _judge(*lost).ranks == [0]


class _Job:
    """A center and members in this process."""

    def __init__(self, members, timeout=60.0):
        self.ends = {rank: queue.Queue() for rank in range(members + 1)}
        self.marks = {rank: Mark(1, 0, "training") for rank in self.ends}
        self.listener = addresses.listen({})
        self.offer = addresses.offered(self.listener)
        self.center = Center(
            self.listener,
            _TOKEN,
            self._place(0),
            lambda: self.marks[0],
            timeout=timeout,
            end=lambda end: self._end(0, end),
        )
        self.order = []
        self.lines = {}
        self.members = {
            rank: self._member(rank, timeout) for rank in range(1, members + 1)
        }

    def _place(self, rank):
        now = time.monotonic()
        return Heard(
            f"host{rank}", 100 + rank, Mark(0, 0, "starting"), now, now
        )

    def hello(self, rank):
        return {
            "token": _TOKEN,
            "rank": rank,
            "host": f"host{rank}",
            "pid": 100 + rank,
        }

    def _member(self, rank, timeout):
        self.lines[rank] = connect(self.offer, self.hello(rank))
        return Member(
            self.lines[rank],
            self._place(0),
            lambda: self.marks[rank],
            timeout=timeout,
            end=lambda end: self._leave(rank, end),
        )

    def _leave(self, rank, end):
        self._end(rank, end)
        # As when the process ends.
        self.lines[rank].close()

    def _end(self, rank, end):
        self.order.append(rank)
        self.ends[rank].put(end)

    def stop_center(self):
        """Ends its thread, whatever the others do; the connections stay."""
        self.center._ranks = {0: self.center._ranks[0]}
        self.center._is_closing = True
        self.center._thread.join()

    def close(self):
        for member in self.members.values():
            member.close()
        self.center.close()


def test_ranks_that_end_in_order_are_not_missed():
    job = _Job(2)
    job.members[1].close()
    # Long enough for the center to have judged.
    with pytest.raises(queue.Empty):
        job.ends[0].get(timeout=2)
    job.members[2].close()
    job.center.close()
    assert all(ends.empty() for ends in job.ends.values())


def test_the_center_waits_for_those_who_end_later():
    job = _Job(2)
    job.members[1].close()
    closing = threading.Thread(target=job.center.close)
    closing.start()
    closing.join(2)
    assert closing.is_alive()
    job.members[2].close()
    closing.join(_SOON)
    assert not closing.is_alive()
    assert all(ends.empty() for ends in job.ends.values())


def test_a_rank_that_is_frozen_at_the_end_is_named():
    job = _Job(2, timeout=3.0)
    job.members[1].close()
    # It says no more, and that neither.
    job.members[2].say = lambda **message: True
    closing = threading.Thread(target=job.center.close)
    closing.start()
    end = job.ends[0].get(timeout=_SOON)
    assert (list(end.ranks), end.speaker) == ([2], 0)
    assert "rank 2 (host2, process 102) has not been heard of" in end.text
    closing.join(_SOON)
    assert not closing.is_alive()


def test_all_hear_who_was_lost():
    job = _Job(3)
    job.lines[2].connection.shutdown(socket.SHUT_RDWR)
    for rank in (0, 1, 3):
        end = job.ends[rank].get(timeout=_SOON)
        assert list(end.ranks) == [2]
        assert end.text.startswith("rank 2 (host2, process 102) has ended")
        assert end.speaker == 0
    job.close()


def test_the_rank_that_failed_speaks_when_the_others_have_gone():
    job = _Job(2)
    job.members[1].say(failure="it broke")
    for ends in job.ends.values():
        ends.get(timeout=_SOON)
    assert job.order[0] == 2
    assert set(job.order[1:]) == {0, 1}
    job.close()


def test_a_lost_center_is_noticed_by_all():
    job = _Job(2)
    job.stop_center()
    for lines in job.center._lines.values():
        lines.close()
    for rank in (1, 2):
        end = job.ends[rank].get(timeout=_SOON)
        assert (list(end.ranks), end.speaker) == ([0], 1)
        assert "rank 0 (host0, process 100) has ended" in end.text


def test_a_center_that_says_nothing_is_noticed():
    job = _Job(1, timeout=3.0)
    job.stop_center()
    end = job.ends[1].get(timeout=_SOON)
    assert "rank 0 (host0, process 100) has not been heard of" in end.text


def test_a_silent_center_explains_a_failed_exchange(monkeypatch):
    # As where it is frozen: the exchange fails long before it is missed.
    monkeypatch.setattr(member_lib, "_SILENCE_SECONDS", 2.0)
    job = _Job(2, timeout=3600.0)
    job.stop_center()
    time.sleep(3)
    assert job.ends[1].empty()
    job.members[1].say(echo="Read timeout")
    end = job.ends[1].get(timeout=_SOON)
    assert (list(end.ranks), end.speaker) == ([0], 1)
    assert "rank 0 (host0, process 100) has not been heard of" in end.text


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"token": "another", "rank": 1, "host": "x", "pid": 1}\n',
        b'{"token": "t\\u00f6k\\ud800"}\n',
        b'{"token": null}\n[]\n',
        b"x" * (1 << 21),
    ],
)
def test_strangers_change_nothing(words):
    job = _Job(1)
    with socket.create_connection(job.listener.getsockname()) as stranger:
        stranger.settimeout(_SOON)
        try:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
        except (ConnectionError, BrokenPipeError):
            pass  # It did not read to the end.
    with pytest.raises(queue.Empty):
        job.ends[0].get(timeout=1.5)
    assert job.center._thread.is_alive()
    job.close()


def test_the_first_address_that_answers_is_taken():
    job = _Job(0)
    with socket.create_server(("127.0.0.1", 0)) as refuses:
        closed = refuses.getsockname()
    lines = connect([closed, *job.offer], job.hello(1))
    assert lines is not None
    lines.send(bye=True)
    assert connect([closed], job.hello(2)) is None
    job.close()


def test_data_may_have_opened_a_thousand_files(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this host allows fewer open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.enter_context(path.open())
        job = _Job(1)
        assert job.lines[1].connection.fileno() > 1024
        job.center.say(failure="it broke")
        assert job.ends[1].get(timeout=_SOON).text == "it broke"
        job.close()


def test_horovods_interface_is_listened_on():
    with addresses.listen({"HOROVOD_GLOO_IFACE": "lo"}) as listener:
        assert addresses.offered(listener)[0][0] == "127.0.0.1"
    with addresses.listen({}) as listener:
        # What leads to this host from itself only comes last.
        assert addresses.offered(listener)[-1][0] == "127.0.0.1"


def test_a_rank_that_is_told_to_end_says_first_who_was_lost():
    """horovodrun sends SIGTERM to the others as soon as one rank is gone."""
    program = pathlib.Path(__file__).parent / "programs"
    ended = subprocess.run(
        [sys.executable, program / "terminate_while_reporting.py"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: rank 1 (host7, process 123) has ended")
