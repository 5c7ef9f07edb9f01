"""JSON objects over a connection, one per line."""

import json
import select
import socket
from typing import Any

# More than any message, less than what hurts.
_LONGEST = 1 << 20


class Lines:
    """A connection that sends and receives objects."""

    def __init__(self, connection: socket.socket):
        """Takes a connected socket, which it sets to never block.

        A peer that does not read for so long that the buffers of both hosts
        are full counts as gone.
        """
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._received = b""

    def send(self, **message: Any) -> bool:
        """Sends an object; returns whether the other end is still there."""
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Waits until something has come; returns whether it has."""
        # Not `select`, which takes the first 1,024 descriptors only: a job has
        # one open for every file of its data.
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def receive(self) -> list[dict[str, Any]] | None:
        """What has come, without waiting; None if the other end is gone."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > _LONGEST:
            return None
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return messages if all(isinstance(m, dict) for m in messages) else None

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()
