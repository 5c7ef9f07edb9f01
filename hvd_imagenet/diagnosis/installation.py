"""What is installed on the hosts: the same, tried, and able to do the job."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from hvd_imagenet.cluster import comparison
from hvd_imagenet.cluster.finding import (
    Finding,
    Level,
    each,
    failure,
    grouped,
    names,
    ok,
    warning,
)
from hvd_imagenet.diagnosis.support import STACKS

# Facts of one process per host, by host: see `facts.gather`.
Facts = Mapping[str, Mapping[str, Any]]


def software(facts: Facts, is_launched: bool) -> list[Finding]:
    """Versions: the same everywhere, and ever tried."""
    found = list(comparison.software(facts))
    if not is_launched:
        # One process needs no Horovod.
        found = [
            dataclasses.replace(f, level=Level.WARNING)
            if f.text.startswith("Horovod")
            else f
            for f in found
        ]
    untried = {
        what: [host for host in facts if what in facts[host]["untried"]]
        for what in sorted({w for f in facts.values() for w in f["untried"]})
    }
    found += [
        warning(
            "software",
            f"{names(hosts)}: {what}",
            "run tools/setup there, which installs what was tried",
        )
        for what, hosts in untried.items()
    ]
    first = next(iter(facts.values()))
    versions = {"Python": first["python"], **first["packages"]}
    text = ", ".join(f"{name} {v}" for name, v in versions.items())
    return found or [
        ok(
            "software",
            f"{text}, code {first['code']} on {_hosts(len(facts))}",
        )
    ]


def horovod(facts: Facts, backend: str, is_launched: bool) -> list[Finding]:
    """What the build of Horovod can do, and whether it is what is needed."""
    check, found = "Horovod", []
    for build, hosts in grouped(
        each(facts, lambda f: _build_text(f["build"]))
    ).items():
        of_hosts = facts[hosts[0]]["build"]
        if isinstance(of_hosts, str):
            say = failure if is_launched else warning
            found.append(
                say(
                    check,
                    f"cannot be loaded on {names(hosts)} ({of_hosts})",
                    "run tools/setup there; one process trains without",
                )
            )
        elif is_launched and not of_hosts[backend]:
            found.append(
                failure(
                    check,
                    f"is built with {build} on {names(hosts)}, and was"
                    f" started by {backend}",
                    "start it otherwise, or build it with"
                    f" HOROVOD_WITH_{backend.upper()}=1 tools/setup",
                )
            )
        elif not of_hosts["nccl"] and facts[hosts[0]]["tensorflow_gpus"]:
            found.append(
                warning(
                    check,
                    f"is built without NCCL on {names(hosts)}: gradients"
                    " leave the GPUs and go through memory",
                    "build it with HOROVOD_GPU_OPERATIONS=NCCL tools/setup",
                )
            )
    builds = set(each(facts, lambda f: _build_text(f["build"])).values())
    if len(builds) > 1 and not found:
        found.append(
            failure(
                check,
                f"is built otherwise on some hosts: {'; '.join(builds)}",
                "install the same on all hosts",
            )
        )
    return found or [ok(check, f"built with {', '.join(builds)}")]


def support(facts: Facts, wants_xla: bool) -> list[Finding]:
    """How far TensorFlow, Python and Horovod were tried together.

    Args:
        facts: of hosts.
        wants_xla: whether HOROVOD_ENABLE_XLA_OPS is set.
    """
    check, found = "support", []
    combinations = grouped(each(facts, _combination))
    for (tensorflow, python, parts), hosts in combinations.items():
        text = f"TensorFlow {tensorflow}, Python {python}"
        stack = STACKS.get(tensorflow)
        if stack is None or int(python.split(".")[1]) not in stack.pythons:
            found.append(
                warning(
                    check,
                    f"{text} were not tried together, on {names(hosts)}",
                    "run tools/setup, which installs what was: TensorFlow "
                    + " or ".join(map(_tried, STACKS)),
                )
            )
        elif wants_xla and not stack.has_xla:
            found.append(
                warning(
                    check,
                    f"HOROVOD_ENABLE_XLA_OPS has no effect: Horovod for"
                    f" TensorFlow {tensorflow} is built without XLA operations",
                    "leave it out, and functions that exchange uncompiled",
                )
            )
        else:
            tried = [f"{part} {getattr(stack, part.lower())}" for part in parts]
            on_hosts = f" on {names(hosts)}" if len(combinations) > 1 else ""
            found.append(ok(check, f"{', '.join([text, *tried])}{on_hosts}"))
    return found


def gpus(facts: Facts, slots: Mapping[str, int]) -> list[Finding]:
    """A free GPU for every process, and one that TensorFlow sees."""
    found = list(comparison.gpus(facts, slots))
    for host, of_host in facts.items():
        seen, there = of_host["tensorflow_gpus"], len(of_host["gpus_free"])
        if seen < there:
            on_purpose = "tensorflow-cpu" in of_host["packages"]
            say = warning if on_purpose else failure
            found.append(
                say(
                    "GPUs",
                    f"the driver of {host} has {there} GPUs, TensorFlow"
                    f" sees {seen}",
                    "install tensorflow[and-cuda] as tools/setup does"
                    " for GPUs, or hide them with CUDA_VISIBLE_DEVICES=-1 to"
                    " train on the CPU",
                )
            )
    counts = grouped(each(facts, lambda f: f["tensorflow_gpus"]))
    text = " and ".join(
        f"{count or 'none'} on {names(hosts)}"
        for count, hosts in counts.items()
    )
    return found or [ok("GPUs", text)]


def kernels(facts: Facts) -> list[Finding]:
    """Whether the compiled operations are used."""
    findings = []
    # Hosts with GPUs have a use for fewer.
    reasons = collections.defaultdict(dict)
    for host, of_host in facts.items():
        for check, reason in of_host["missing_kernels"].items():
            reasons[check][host] = reason
    for check, by_host in reasons.items():
        found = [
            warning(
                check,
                f"the compiled operation is not used on {names(hosts)}:"
                f" {reason}",
                "run tools/setup there; what TensorFlow and Horovod have of"
                " their own does the same in more time",
            )
            for reason, hosts in grouped(by_host).items()
            if reason is not None
        ]
        findings += found or [
            ok(check, f"its compiled operation works on {_hosts(len(by_host))}")
        ]
    return findings


def recipe(facts: Facts, flagfiles: list[str]) -> list[Finding]:
    """All hosts understand the same recipe."""
    found = list(comparison.flagfiles(facts, flagfiles))
    groups = grouped(each(facts, lambda f: f["recipe"]))
    if len(groups) > 1 and not found:
        found.append(
            failure(
                "recipe",
                "differs: "
                + " and ".join(
                    f"{digest} on {names(hosts)}"
                    for digest, hosts in groups.items()
                ),
                "give all hosts the same flags and flagfiles",
            )
        )
    return found or [
        ok("recipe", f"{next(iter(groups))} on {_hosts(len(facts))}")
    ]


def _combination(of_host: Mapping[str, Any]) -> tuple[str, str, tuple]:
    """What must go together: TensorFlow, Python, parts of Horovod."""
    packages = of_host["packages"]
    tensorflow = packages.get("tensorflow") or packages.get("tensorflow-cpu")
    build = of_host["build"]
    parts = () if isinstance(build, str) else _parts(build)
    return tensorflow or "of unknown version", of_host["python"], parts


def _tried(tensorflow: str) -> str:
    oldest, *_, newest = STACKS[tensorflow].pythons
    return f"{tensorflow} with Python 3.{oldest} to 3.{newest}"


def _build_text(build: Mapping[str, Any] | str) -> str:
    return build if isinstance(build, str) else " and ".join(_parts(build))


def _parts(build: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(n for n in ("Gloo", "MPI", "NCCL") if build[n.lower()])


def _hosts(count: int) -> str:
    return f"{count} host{'s' if count > 1 else ''}"
