"""Rank 0's side: listens to all ranks, and judges."""

import hmac
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from hvd_imagenet.supervision.lines import Lines
from hvd_imagenet.supervision.verdict import Heard, Mark, Verdict, judge

# How often ranks say how far they are.
BEAT_SECONDS = 1.0
# For ranks to go, once they were told to.
LEAVE_SECONDS = 5.0
# Rank 0 was stopped itself if it comes back so late: others were not silent.
_OWN_PAUSE_SECONDS = 5.0


class Center:
    """Listens and judges, in a thread of its own."""

    def __init__(
        self,
        listener: socket.socket | None,
        token: str,
        own: Heard,
        own_mark: Callable[[], Mark],
        *,
        timeout: float,
        end: Callable[[Verdict], None],
    ):
        """Starts the thread.

        Args:
            listener: where the others connect; None if there are none.
            token: which they know.
            own: rank 0 itself.
            own_mark: how far rank 0 is.
            timeout: seconds that a rank may be silent or without progress.
            end: called in the thread, when the others have gone.
        """
        self._ranks = {0: own}
        self._token = token
        self._own_mark = own_mark
        self._timeout = timeout
        self._end = end
        self._lines: dict[int, Lines] = {}
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        if listener is not None:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def say(self, **message: Any) -> bool:
        """Takes what rank 0 has to say itself."""
        self._hear(0, message)
        return True

    def close(self) -> None:
        """Ends in order, when the others have said that they do.

        One that does not, as it was frozen at the very end, is judged as ever.
        """
        self._is_closing = True
        self._thread.join()
        for lines in self._lines.values():
            lines.send(over=True)
            lines.close()
        if self._listener is not None:
            self._listener.close()
        self._selector.close()

    def _work(self) -> None:
        looked = beaten = time.monotonic()
        while not (self._is_closing and self._ranks.keys() == {0}):
            self._listen(BEAT_SECONDS / 2)
            now = time.monotonic()
            if now - looked > _OWN_PAUSE_SECONDS:
                for heard in self._ranks.values():
                    heard.heard = heard.marked = now
            looked = now
            self._hear(0, {"mark": self._own_mark()})
            verdict = judge(self._ranks, now, self._timeout)
            if verdict is not None:
                self._carry_out(verdict)
                return
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                for lines in self._lines.values():
                    lines.send(beat=True)

    def _listen(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                connection, _ = self._listener.accept()
                lines = Lines(connection)
                self._selector.register(connection, selectors.EVENT_READ, lines)
            else:
                self._read(key.data)

    def _read(self, lines: Lines) -> None:
        rank = next(
            (r for r, each in self._lines.items() if each is lines), None
        )
        messages = lines.receive()
        for message in messages or ():
            if rank is None:
                rank = self._admit(lines, message)
                if rank is None:
                    messages = None
                    break
            else:
                self._hear(rank, message)
        if messages is None:
            self._selector.unregister(lines.connection)
            lines.close()
            if rank is not None:
                del self._lines[rank]
                if rank in self._ranks:
                    self._ranks[rank].is_gone = True

    def _admit(self, lines: Lines, message: dict[str, Any]) -> int | None:
        """The rank that has come; None for a stranger."""
        said = str(message.get("token")).encode(errors="replace")
        if not hmac.compare_digest(said, self._token.encode()):
            return None
        now = time.monotonic()
        rank = message["rank"]
        self._lines[rank] = lines
        self._ranks[rank] = Heard(
            message["host"], message["pid"], Mark(0, 0, "starting"), now, now
        )
        lines.send(welcome=True)
        return rank

    def _hear(self, rank: int, message: dict[str, Any]) -> None:
        heard = self._ranks.get(rank)
        if heard is None:
            return
        now = time.monotonic()
        heard.heard = now
        if "mark" in message:
            mark = Mark(*message["mark"])
            if mark != heard.mark:
                heard.mark, heard.marked = mark, now
        if "failure" in message:
            heard.failure = message["failure"]
        if "echo" in message:
            heard.echo, heard.echoed = message["echo"], now
        if "bye" in message:
            del self._ranks[rank]

    def _carry_out(self, verdict: Verdict) -> None:
        """Ends the others, the one that speaks last, and then this one."""
        for rank, lines in self._lines.items():
            if rank != verdict.speaker:
                lines.send(end=verdict)
        deadline = time.monotonic() + LEAVE_SECONDS
        # One that was stopped does not go.
        while time.monotonic() < deadline and (
            self._lines.keys() - {verdict.speaker}
        ):
            self._listen(BEAT_SECONDS / 10)
        if verdict.speaker in self._lines:
            self._lines[verdict.speaker].send(end=verdict)
        self._end(verdict)
