"""Whose address is whose, and the interface that leads to other hosts."""

import subprocess
import sys

import pytest

from hvd_imagenet.cluster import network


def test_names_are_resolved_or_not():
    impossible = "a" * 64  # A part of a name has 63 letters at most.
    assert network.resolve(["localhost", "10.1.2.3", impossible]) == {
        "localhost": "127.0.0.1",
        "10.1.2.3": "10.1.2.3",
        impossible: None,
    }


def test_addresses_of_this_host():
    own = network.own_addresses()
    assert own["127.0.0.1"] == "lo"
    assert network.interface_address("lo", own) == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (None, "the address of host2 cannot be found"),
        ("127.0.1.1", "host2 is 127.0.1.1 here, which other hosts cannot"),
    ],
)
def test_names_that_lead_nowhere_are_refused(address, words):
    with pytest.raises(ValueError, match=words):
        network.choose_interface({"host2": address}, network.own_addresses())


# Two networks with an interface each, the second one with two addresses.
_NETWORKS = """
ip link set lo up
ip link add net1 type veth peer name net2
ip address add 10.1.0.1/24 dev net1
ip address add 10.2.0.1/24 dev net2
ip address add 10.3.0.1/24 dev net2
ip link set net1 up
ip link set net2 up
exec "$0" -c '
from hvd_imagenet.cluster import network
own = network.own_addresses()
for remote in (
    {"a": "10.1.0.7", "b": "10.1.0.8"},
    {"c": "10.3.0.9"},
    {"a": "10.1.0.7", "c": "10.2.0.9"},
    {"d": "192.0.2.1"},
):
    try:
        print(network.choose_interface(remote, own))
    except ValueError as error:
        print(error)
'
"""


def test_the_interface_is_the_one_that_leads_to_the_others():
    isolated = ["unshare", "--net", "--user", "--map-root-user"]
    try:
        subprocess.run(
            [*isolated, "ip", "link", "add", "net1", "type", "veth"],
            capture_output=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here")
    finished = subprocess.run(
        [*isolated, "sh", "-euc", _NETWORKS, sys.executable],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert finished.stdout.splitlines() == [
        "net1",
        "net2",
        "different interfaces lead to them, net1 to a and net2 to c; choose"
        " one that all hosts have with --network_interface; here are lo, net1,"
        " net2.",
        "d (192.0.2.1) cannot be reached (Network is unreachable); correct its"
        " address, or the routes of this host.",
    ]


def test_an_interface_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match="--network_interface=ib9 has no"):
        network.interface_address("ib9", network.own_addresses())
