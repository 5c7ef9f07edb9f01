"""The other ranks' side: says how far this one is, and does as it is told."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from hvd_imagenet.supervision.center import BEAT_SECONDS, LEAVE_SECONDS
from hvd_imagenet.supervision.lines import Lines
from hvd_imagenet.supervision.verdict import (
    Heard,
    Mark,
    Verdict,
    lost_words,
    sentence,
    silence_words,
)

_CONNECT_SECONDS = 5.0
# So long a silence of rank 0 explains a failed exchange. It speaks every
# second, but for the time that it gives others to leave.
_SILENCE_SECONDS = 2 * LEAVE_SECONDS


def connect(
    addresses: Sequence[tuple[str, int]], hello: dict[str, Any]
) -> Lines | None:
    """Connects to the first address where rank 0 answers."""
    for address in addresses:
        try:
            connection = socket.create_connection(address, _CONNECT_SECONDS)
        except OSError:
            continue
        lines = Lines(connection)
        lines.send(**hello)
        is_answered = lines.wait(_CONNECT_SECONDS)
        if is_answered and lines.receive() == [{"welcome": True}]:
            return lines
        lines.close()
    return None


class Member:
    """Says and listens, in a thread of its own."""

    def __init__(
        self,
        lines: Lines,
        center: Heard,
        own_mark: Callable[[], Mark],
        *,
        timeout: float,
        end: Callable[[Verdict], None],
    ):
        """Starts the thread.

        Args:
            lines: to rank 0.
            center: rank 0.
            own_mark: how far this rank is.
            timeout: seconds that rank 0 may be silent.
            end: called in the thread when this rank must end.
        """
        self._lines = lines
        self._center = center
        self._own_mark = own_mark
        self._timeout = timeout
        self._end = end
        self._is_over = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def say(self, **message: Any) -> bool:
        """Tells rank 0; returns whether it is still there."""
        if "echo" in message:
            # Frozen, it may be missed by the exchange long before its time.
            self._timeout = min(self._timeout, _SILENCE_SECONDS)
        with self._lock:
            return self._lines.send(**message)

    def close(self) -> None:
        """Ends in order."""
        self.say(bye=True)
        self._is_over = True
        self._thread.join(LEAVE_SECONDS)
        self._lines.close()

    def _work(self) -> None:
        heard = beaten = looked = time.monotonic()
        while not self._is_over:
            has_come = self._lines.wait(BEAT_SECONDS / 2)
            now = time.monotonic()
            if now - looked > 2 * LEAVE_SECONDS:  # This rank was stopped.
                heard = now
            looked = now
            if has_come:
                heard = now
                messages = self._lines.receive()
                if messages is None:
                    self._lose(lost_words())
                    return
                for message in messages:
                    if "over" in message:
                        return
                    if "end" in message:
                        self._end(Verdict(*message["end"]))
                        return
            elif now - heard > self._timeout:
                self._lose(silence_words(now - heard))
                return
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                self.say(mark=self._own_mark())

    def _lose(self, what: str) -> None:
        """Without rank 0 every rank knows by itself; the next one says so."""
        if self._is_over:
            return
        self._center.mark = self._own_mark()
        self._end(Verdict([0], sentence(0, self._center, what), speaker=1))
