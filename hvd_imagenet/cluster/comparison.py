"""What must be alike, present and free on the hosts of a job, and is not.

Every function takes the facts of hosts by name, as `host_facts.gather` returns
them, and yields findings that keep a job from running.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hvd_imagenet.cluster.finding import (
    Finding,
    each,
    failure,
    grouped,
    listed,
    names,
)

_INSTALL_SAME = "install the same on all hosts"


def software(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Other Python, packages or code, or none."""
    versions = {
        package: each(facts, lambda f, p=package: f["packages"].get(p))
        for package in sorted(
            {name for f in facts.values() for name in f["packages"]}
        )
    }
    compared = {
        "Python": each(facts, lambda f: f["python"]),
        **versions,
        "the code of hvd_imagenet": each(facts, lambda f: f["code"]),
    }
    for what, values in compared.items():
        groups = grouped(values)
        if len(groups) > 1:
            yield failure(
                "software", f"{what} is {listed(groups)}", _INSTALL_SAME
            )
    for what, is_missing in {
        "hvd_imagenet": lambda f: f["code"] is None,
        "Horovod": lambda f: "horovod" not in f["packages"],
    }.items():
        if all(map(is_missing, facts.values())):
            yield failure("software", f"{what} is not installed", _INSTALL_SAME)


def own_names(facts: Mapping[str, Any], backend: str) -> Iterator[Finding]:
    """Hosts that do not know themselves, where that matters."""
    for host, of_host in facts.items():
        if backend == "gloo" and not of_host["own_name_resolves"]:
            yield failure(
                "host names",
                f"{host} does not know the address of its own name,"
                f" {of_host['own_name']}, without which Gloo aborts",
                "add it to /etc/hosts there",
            )


def interfaces(
    facts: Mapping[str, Any], interface: str | None
) -> Iterator[Finding]:
    """Hosts without the interface that is to be used."""
    for host, of_host in facts.items():
        if interface and not of_host["address"]:
            yield failure(
                "interfaces",
                f"{host} has no IPv4 address on {interface}, but"
                f" {', '.join(of_host['interfaces'])}",
                "choose one that all hosts have with --network_interface",
            )


def way_back(
    facts: Mapping[str, Any], launcher: tuple[str, int] | None
) -> Iterator[Finding]:
    """Hosts that cannot connect to the launcher's address and port."""
    for reason, hosts in grouped(
        each(facts, lambda f: f["launcher_error"])
    ).items():
        if reason:
            address, port = launcher
            yield failure(
                "network",
                f"{names(hosts)} cannot connect to this host, {address} port"
                f" {port} ({reason})",
                "open all TCP ports between the hosts",
            )


def flagfiles(facts: Mapping[str, Any], paths: list[str]) -> Iterator[Finding]:
    """Recipes that are missing or other ones."""
    for path in paths:
        groups = grouped(each(facts, lambda f, p=path: f["flagfiles"][p]))
        if None in groups:
            yield failure(
                "recipe",
                f"{names(groups[None])} cannot read --flagfile={path}",
                "copy it there, to the same path",
            )
        elif len(groups) > 1:
            yield failure(
                "recipe",
                f"--flagfile={path} is another one on"
                f" {names(min(groups.values(), key=len))}",
                "copy it again",
            )


def data(facts: Mapping[str, Any], data_dir: str | None) -> Iterator[Finding]:
    """Data that are missing or other ones."""
    if not data_dir:
        return
    flag = f"--data_dir={data_dir}"
    missing = [host for host in facts if not facts[host]["data"]]
    if missing:
        yield failure(
            "data",
            f"{names(missing)} cannot read {flag}",
            "mount or copy it there, to the same path",
        )
    groups = grouped(
        {host: f["data"]["digest"] for host, f in facts.items() if f["data"]}
    )
    if len(groups) > 1:
        counts = {
            f"{facts[hosts[0]]['data']['entries']} entries": hosts
            for hosts in groups.values()
        }
        yield failure(
            "data",
            f"{flag} differs: {listed(counts)}",
            "make it the same on all hosts",
        )


def gpus(
    facts: Mapping[str, Any], slots: Mapping[str, int]
) -> Iterator[Finding]:
    """Too few free GPUs, where any host trains on GPUs.

    Args:
        facts: of the hosts.
        slots: processes by host.
    """
    counts = {
        host: f["gpus_free"]
        for host, f in facts.items()
        if "tensorflow-cpu" not in f["packages"]
    }
    if not any(counts.values()):
        return
    for host, free in counts.items():
        if sum(free) < slots[host]:
            yield failure(
                "GPUs",
                f"{host} has {sum(free)} free GPUs of {len(free)}, but"
                f" {slots[host]} slots",
                "free some, or lower its slots",
            )
