"""The network between hosts: time and rate of every way, and their clocks.

Plain TCP between one process per host, measured apart from Horovod, so that a
slow exchange can be told from a slow link and the host be named.
"""

import contextlib
import dataclasses
import hmac
import socket
import struct
import threading
import time
from collections.abc import Iterator

# Of 64 hosts each meets 31, which names a slow one as well as all 63 would.
_ROUNDS = 31

_CONNECT_SECONDS = 5
_SILENCE_SECONDS = 20

_PINGS = 20
_FIRST_BYTES = 256 * 1024
# Long enough for the rate to matter more than the round trip.
_TRANSFER_SECONDS = 0.2
_BLOCK = bytes(256 * 1024)

_TOKEN_BYTES = 16
_PING, _TAKE, _GIVE = 1, 2, 3
_COMMAND = struct.Struct("<BQ")
_CLOCK = struct.Struct("<d")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """A way between two hosts.

    Attributes:
        first: number of the host that measured.
        second: number of the host that answered.
        error: why nothing was measured; "" if it was.
        round_trip: shortest time there and back in seconds.
        clock_offset: clock of `second` minus that of `first` in seconds.
        forth: bytes per second from first to second, in one connection.
        back: bytes per second the other way.
    """

    first: int
    second: int
    error: str = ""
    round_trip: float = 0.0
    clock_offset: float = 0.0
    forth: float = 0.0
    back: float = 0.0


def rounds(hosts: int) -> list[list[tuple[int, int]]]:
    """Who meets whom: in a round every host meets one other at most.

    The circle method of tournaments; of many hosts, its first rounds.
    """
    places = [*range(hosts), *([None] if hosts % 2 else [])]
    schedule = []
    for _ in range(min(len(places) - 1, _ROUNDS)):
        pairs = zip(places, reversed(places), strict=True)
        schedule.append(
            [
                (first, second)
                for first, second in list(pairs)[: len(places) // 2]
                if first is not None and second is not None
            ]
        )
        places = [places[0], places[-1], *places[1:-1]]
    return schedule


@contextlib.contextmanager
def answering(address: str, token: bytes) -> Iterator[tuple[str, int]]:
    """Answers those who know the token, while in the `with` block.

    Args:
        address: IPv4 address of this host to listen on, and on no other.
        token: 16 bytes that strangers do not know.

    Yields:
        The address and the port.
    """
    with socket.create_server((address, 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # Closed: nobody is to be answered any more.
                    return
                threading.Thread(
                    target=_answer, args=(connection, token), daemon=True
                ).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()
        finally:
            # Wakes up `accept`, which close alone does not.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def measure(
    first: int, second: int, address: tuple[str, int], token: bytes
) -> Link:
    """Measures the way from here to a host that is `answering`.

    Args:
        first: number of this host.
        second: number of the other one.
        address: IPv4 address and port of the other one.
        token: its token.
    """
    try:
        with socket.create_connection(address, _CONNECT_SECONDS) as connection:
            connection.settimeout(_SILENCE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(token)
            pings = [_ping(connection) for _ in range(_PINGS)]
            round_trip, offset = min(pings)
            return Link(
                first=first,
                second=second,
                round_trip=round_trip,
                clock_offset=offset,
                forth=_rate(connection, _TAKE),
                back=_rate(connection, _GIVE),
            )
    except OSError as error:
        return Link(
            first=first, second=second, error=error.strerror or str(error)
        )


def _ping(connection: socket.socket) -> tuple[float, float]:
    """(round trip, offset of the other clock), both in seconds."""
    begun, begun_clock = time.perf_counter(), time.time()
    connection.sendall(_COMMAND.pack(_PING, 0))
    (their_clock,) = _CLOCK.unpack(_receive(connection, _CLOCK.size))
    round_trip = time.perf_counter() - begun
    # NTP's estimate: they looked at their clock half way.
    return round_trip, their_clock - (begun_clock + round_trip / 2)


def _rate(connection: socket.socket, command: int) -> float:
    """Bytes per second, of a transfer that is long enough."""
    count = _FIRST_BYTES
    while True:
        begun = time.perf_counter()
        connection.sendall(_COMMAND.pack(command, count))
        if command == _TAKE:
            _send_bytes(connection, count)
            _receive(connection, 1)
        else:
            _receive_bytes(connection, count)
        seconds = time.perf_counter() - begun
        if seconds >= _TRANSFER_SECONDS:
            return count / seconds
        count *= 2


def _answer(connection: socket.socket, token: bytes) -> None:
    """Does what a connection asks for until it ends."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(_SILENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not hmac.compare_digest(_receive(connection, _TOKEN_BYTES), token):
            return
        while True:
            command, count = _COMMAND.unpack(
                _receive(connection, _COMMAND.size)
            )
            if command == _PING:
                connection.sendall(_CLOCK.pack(time.time()))
            elif command == _TAKE:
                _receive_bytes(connection, count)
                connection.sendall(b"\0")
            else:
                _send_bytes(connection, count)


def _send_bytes(connection: socket.socket, count: int) -> None:
    for _ in range(count // len(_BLOCK)):
        connection.sendall(_BLOCK)


def _receive_bytes(connection: socket.socket, count: int) -> None:
    buffer = bytearray(len(_BLOCK))
    while count:
        received = connection.recv_into(buffer, min(count, len(buffer)))
        if not received:
            raise ConnectionError("the other end closed the connection")
        count -= received


def _receive(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError("the other end closed the connection")
        data += more
    return data
