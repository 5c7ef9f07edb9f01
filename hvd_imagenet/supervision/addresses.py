"""Where rank 0 can be reached."""

import os
import socket
from collections.abc import Mapping

from hvd_imagenet.cluster import network

# As many as connect at once; the kernel may allow fewer.
_BACKLOG = 4096


def listen(environ: Mapping[str, str] = os.environ) -> socket.socket:
    """Listens at a free port: where Horovod does, if it was told where."""
    interface = environ.get("HOROVOD_GLOO_IFACE")
    own = network.own_addresses()
    address = ""
    if interface is not None and interface in own.values():
        address = network.interface_address(interface, own)
    return socket.create_server((address, 0), backlog=_BACKLOG)


def offered(listener: socket.socket) -> list[tuple[str, int]]:
    """Addresses and ports where others may try, the likely ones first."""
    address, port = listener.getsockname()
    if address != "0.0.0.0":
        return [(address, port)]
    found = network.own_addresses()
    # Loopback leads to the host itself only, which the others may not be.
    return [
        (each, port)
        for each in sorted(found, key=lambda each: found[each] == "lo")
    ]
