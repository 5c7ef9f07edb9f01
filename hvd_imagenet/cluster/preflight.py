"""What the answers of the hosts say about a job: the first look, in words."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hvd_imagenet.cluster.hosts import Cluster
from hvd_imagenet.cluster.survey import Answer

# Names of hosts in a sentence.
_NAMED_HOSTS = 4


def problems(
    cluster: Cluster,
    answers: Mapping[str, Answer],
    request: Mapping[str, Any],
) -> list[str]:
    """Sentences on what keeps the job from running; none if nothing does.

    Args:
        cluster: the hosts.
        answers: theirs, by name.
        request: what they were asked, and "backend", "gloo" or "mpi".
    """
    found = []
    for reason, hosts in _grouped(
        {host: answer.error for host, answer in answers.items()}
    ).items():
        if reason:
            found.append(f"{_names(hosts)} {reason}.")
    facts = {
        host: answer.facts
        for host, answer in answers.items()
        if answer.facts is not None
    }
    if facts:
        found += _differences(facts)
        found += _network_problems(facts, request)
        found += _file_problems(facts, request)
        found += _gpu_problems(cluster, facts)
    return found


def table(cluster: Cluster, answers: Mapping[str, Answer]) -> str:
    """A line of facts for every host."""
    rows = [("host", "slots", "python", "horovod", "code", "data", "free GPUs")]
    for host in cluster.hosts:
        facts = answers[host.name].facts
        if facts is None:
            cells = ["no answer"]
        else:
            data = facts["data"]
            gpus = facts["gpus_free"]
            cells = [
                facts["python"],
                facts["packages"].get("horovod", "none"),
                facts["code"] or "none",
                f"{data['entries']} on {data['filesystem']}" if data else "-",
                f"{sum(gpus)} of {len(gpus)}" if gpus else "none",
            ]
        cells = [host.name, str(host.slots), *cells]
        rows.append((*cells, *[""] * (len(rows[0]) - len(cells))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def _differences(facts: Mapping[str, Any]) -> list[str]:
    """What must be the same everywhere and is not."""
    same = "install the same on all hosts"
    versions = {
        package: _each(facts, lambda f, p=package: f["packages"].get(p))
        for package in sorted(
            {name for f in facts.values() for name in f["packages"]}
        )
    }
    compared = {
        "Python": _each(facts, lambda f: f["python"]),
        **versions,
        "the code of hvd_imagenet": _each(facts, lambda f: f["code"]),
    }
    found = []
    for what, values in compared.items():
        groups = _grouped(values)
        if len(groups) > 1:
            found.append(f"{what} is {_listed(groups)}; {same}.")
    for what, is_missing in {
        "hvd_imagenet": lambda f: f["code"] is None,
        "Horovod": lambda f: "horovod" not in f["packages"],
    }.items():
        if all(map(is_missing, facts.values())):
            found.append(f"{what} is not installed; {same}.")
    return found


def _network_problems(
    facts: Mapping[str, Any], request: Mapping[str, Any]
) -> list[str]:
    found = []
    for host, of_host in facts.items():
        if request["backend"] == "gloo" and not of_host["own_name_resolves"]:
            found.append(
                f"{host} does not know the address of its own name,"
                f" {of_host['own_name']}, without which Gloo aborts; add it to"
                " /etc/hosts there."
            )
        if request["interface"] and not of_host["address"]:
            found.append(
                f"{host} has no IPv4 address on {request['interface']}, but"
                f" {', '.join(of_host['interfaces'])}; choose one that all"
                " hosts have with --network_interface."
            )
    for reason, hosts in _grouped(
        _each(facts, lambda f: f["launcher_error"])
    ).items():
        if reason:
            address, port = request["launcher"]
            found.append(
                f"{_names(hosts)} cannot connect to this host, {address} port"
                f" {port} ({reason}); open all TCP ports between the hosts."
            )
    return found


def _file_problems(
    facts: Mapping[str, Any], request: Mapping[str, Any]
) -> list[str]:
    found = []
    for path in request["flagfiles"]:
        groups = _grouped(_each(facts, lambda f, p=path: f["flagfiles"][p]))
        if None in groups:
            found.append(
                f"{_names(groups[None])} cannot read --flagfile={path}; copy"
                " it there, to the same path."
            )
        elif len(groups) > 1:
            found.append(
                f"--flagfile={path} is another one on"
                f" {_names(min(groups.values(), key=len))}; copy it again."
            )
    if request["data_dir"]:
        flag = f"--data_dir={request['data_dir']}"
        missing = [host for host in facts if not facts[host]["data"]]
        if missing:
            found.append(
                f"{_names(missing)} cannot read {flag}; mount or copy it"
                " there, to the same path."
            )
        groups = _grouped(
            {
                host: f["data"]["digest"]
                for host, f in facts.items()
                if f["data"]
            }
        )
        if len(groups) > 1:
            counts = {
                f"{facts[hosts[0]]['data']['entries']} entries": hosts
                for hosts in groups.values()
            }
            found.append(
                f"{flag} differs: {_listed(counts)}; make it the same on all"
                " hosts."
            )
    return found


def _gpu_problems(cluster: Cluster, facts: Mapping[str, Any]) -> list[str]:
    """Too few free GPUs, where any host trains on GPUs."""
    counts = {
        host: f["gpus_free"]
        for host, f in facts.items()
        if "tensorflow-cpu" not in f["packages"]
    }
    if not any(counts.values()):
        return []
    found = []
    for host in cluster.hosts:
        gpus = counts.get(host.name)
        if gpus is not None and sum(gpus) < host.slots:
            found.append(
                f"{host.name} has {sum(gpus)} free GPUs of {len(gpus)}, but"
                f" {host.slots} slots; free some, or lower its slots."
            )
    return found


def _each(
    facts: Mapping[str, Any], value: Callable[[Any], Any]
) -> dict[str, Any]:
    return {host: value(of_host) for host, of_host in facts.items()}


def _grouped(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Hosts by value."""
    groups = collections.defaultdict(list)
    for host, value in values.items():
        groups[value].append(host)
    return dict(groups)


def _listed(groups: Mapping[Any, Sequence[str]]) -> str:
    return " and ".join(
        f"{value or 'missing'} on {_names(hosts)}"
        for value, hosts in groups.items()
    )


def _names(hosts: Sequence[str]) -> str:
    if len(hosts) <= _NAMED_HOSTS:
        return ", ".join(hosts)
    shown = ", ".join(hosts[: _NAMED_HOSTS - 1])
    return f"{shown} and {len(hosts) - _NAMED_HOSTS + 1} more hosts"
