"""The network as this host sees it: whose address is whose, and by what way.

From the same facts as horovodrun, which takes a host for this one if its name
resolves to an IPv4 address of an interface here, and knows IPv4 only.
"""

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from concurrent import futures

import psutil

# Name servers answer many questions at once.
_LOOKUPS_AT_ONCE = 64

# UDP's discard: connecting sends nothing, it only chooses the way.
_ANY_PORT = 9


def own_addresses() -> dict[str, str]:
    """Interface by IPv4 address of this host."""
    return {
        address.address: interface
        for interface, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }


def resolve(names: Sequence[str]) -> dict[str, str | None]:
    """IPv4 address by host name, None for a name that has none here."""

    def lookup(name):
        try:
            return socket.gethostbyname(name)
        except (OSError, UnicodeError):  # The second if a part is too long.
            return None

    with futures.ThreadPoolExecutor(_LOOKUPS_AT_ONCE) as pool:
        return dict(zip(names, pool.map(lookup, names), strict=True))


def choose_interface(
    remote: Mapping[str, str | None], own: Mapping[str, str]
) -> str:
    """The interface by which this host reaches all of the others.

    Args:
        remote: address by name of the other hosts, at least one.
        own: interface by address of this host.

    Raises:
        ValueError: a host has no usable address, or there are several
            interfaces or none.
    """
    choose = (
        "choose one that all hosts have with --network_interface; here are"
        f" {', '.join(sorted(set(own.values())))}."
    )
    unknown = [name for name, address in remote.items() if address is None]
    if unknown:
        raise ValueError(
            f"the address of {', '.join(unknown)} cannot be found; correct the"
            " name, or make it known here (DNS or /etc/hosts)."
        )
    for name, address in remote.items():
        if ipaddress.ip_address(address).is_loopback:
            raise ValueError(
                f"{name} is {address} here, which other hosts cannot reach;"
                " give its address in the network, or correct /etc/hosts."
            )
    hosts_by_interface = {}
    for name, address in remote.items():
        interface = own.get(_source_address(name, address))
        if interface is None:
            raise ValueError(f"no interface leads to {name}; {choose}")
        hosts_by_interface.setdefault(interface, []).append(name)
    if len(hosts_by_interface) > 1:
        ways = " and ".join(
            f"{interface} to {hosts[0]}"
            for interface, hosts in hosts_by_interface.items()
        )
        raise ValueError(f"different interfaces lead to them, {ways}; {choose}")
    (interface,) = hosts_by_interface
    return interface


def interface_address(interface: str, own: Mapping[str, str]) -> str:
    """The address of one of this host's interfaces.

    Raises:
        ValueError: there is no such interface, or it has no IPv4 address.
    """
    for address, name in own.items():
        if name == interface:
            return address
    raise ValueError(
        f"--network_interface={interface} has no IPv4 address on this host;"
        f" here are {', '.join(sorted(set(own.values())))}."
    )


def _source_address(name: str, address: str) -> str:
    """The address of this host that packets to `address` leave with."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        try:
            connection.connect((address, _ANY_PORT))
        except OSError as error:
            raise ValueError(
                f"{name} ({address}) cannot be reached ({error.strerror});"
                " correct its address, or the routes of this host."
            ) from error
        return connection.getsockname()[0]
