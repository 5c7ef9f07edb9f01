"""What the hosts allow: memory to share, open files, names, interfaces."""

from collections.abc import Mapping
from typing import Any

from hvd_imagenet.cluster import comparison
from hvd_imagenet.cluster.finding import (
    Finding,
    each,
    failure,
    grouped,
    names,
    ok,
    warning,
)
from hvd_imagenet.diagnosis.units import size

# Facts of one process per host, by host: see `facts.gather`.
Facts = Mapping[str, Mapping[str, Any]]

# NCCL's buffers between the GPUs of a host; Docker gives 64 MiB by itself.
_SHARED_MEMORY_PER_GPU = 128 * 2**20
# Open MPI's between the processes of a host.
_SHARED_MEMORY_PER_PROCESS = 8 * 2**20

# Python, TensorFlow, its logs and the run directory.
_OPEN_FILES = 512
# Gloo connects every process to every other for each of three worlds: all
# processes, those of a host, and one of every host.
_CONNECTIONS_PER_PROCESS = 3


def shared_memory(
    facts: Facts, slots: Mapping[str, int], backend: str
) -> list[Finding]:
    """Room in /dev/shm for what NCCL or MPI exchange within a host."""
    found = []
    for host, of_host in facts.items():
        on_gpus = of_host["tensorflow_gpus"] > 0
        needed = slots[host] * (
            _SHARED_MEMORY_PER_GPU if on_gpus else _SHARED_MEMORY_PER_PROCESS
        )
        free = of_host["shared_memory"]
        if free is None or free < needed:
            # Gloo on the CPU does without.
            harmless = not on_gpus and (backend == "gloo" or slots[host] == 1)
            say = warning if harmless else failure
            found.append(
                say(
                    "shared memory",
                    f"/dev/shm of {host} has {size(free or 0)} free, of"
                    f" {size(needed)} that its processes may need",
                    "start the container with --shm-size=1g, or mount a"
                    " larger /dev/shm",
                )
            )
    least = min(f["shared_memory"] or 0 for f in facts.values())
    return found or [ok("shared memory", f"{size(least)} free or more")]


def open_files(facts: Facts, processes: int) -> list[Finding]:
    """Descriptors for data files and connections."""
    found = []
    for host, of_host in facts.items():
        soft, hard = (
            limit if limit >= 0 else float("inf")
            for limit in of_host["open_files"]
        )
        connections = _OPEN_FILES + _CONNECTIONS_PER_PROCESS * processes
        data = of_host["data"]
        needed = connections + (data["entries"] if data else 0)
        # The soft limit is raised for data files, not for connections.
        if soft < connections or hard < needed:
            limit = min(soft, hard) if soft < connections else hard
            found.append(
                failure(
                    "open files",
                    f"a process on {host} may open {limit:.0f} files, and"
                    f" may need {needed}",
                    f"raise it there with ulimit -n {needed}, or for"
                    " good in /etc/security/limits.conf",
                )
            )
    least = min(
        limit if limit >= 0 else float("inf")
        for f in facts.values()
        for limit in f["open_files"]
    )
    return found or [ok("open files", f"{least:,} or more")]


def host_names(
    facts: Facts, resolved: Mapping[str, Mapping[str, bool]], backend: str
) -> list[Finding]:
    """Every host knows its own name, and the others'."""
    found = list(comparison.own_names(facts, backend))
    for host, known in resolved.items():
        unknown = [name for name, is_known in known.items() if not is_known]
        if unknown:
            found.append(
                warning(
                    "host names",
                    f"{host} does not know the address of {names(unknown)}",
                    "add it to DNS or to /etc/hosts there",
                )
            )
    return found or [ok("host names", f"known on {names(list(facts))}")]


def interfaces(facts: Facts, interface: str | None) -> list[Finding]:
    """The interface to use exists on every host."""
    found = list(comparison.interfaces(facts, interface))
    if found:
        return found
    if interface is None:
        return [
            ok(
                "interfaces",
                "; ".join(
                    f"{', '.join(there)} on {names(hosts)}"
                    for there, hosts in grouped(
                        each(facts, lambda f: tuple(f["interfaces"]))
                    ).items()
                ),
            )
        ]
    addresses = sorted(f["address"] for f in facts.values())
    several = f" to {addresses[-1]}" if len(addresses) > 1 else ""
    return [ok("interfaces", f"{interface}, {addresses[0]}{several}")]
