"""What the answers of the hosts say about a job: the first look, in words."""

from collections.abc import Mapping
from typing import Any

from hvd_imagenet.cluster import comparison, finding
from hvd_imagenet.cluster.hosts import Cluster
from hvd_imagenet.cluster.survey import Answer


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
    sentences = []
    for reason, hosts in finding.grouped(
        {host: answer.error for host, answer in answers.items()}
    ).items():
        if reason:
            sentences.append(f"{finding.names(hosts)} {reason}.")
    facts = {
        host.name: answers[host.name].facts
        for host in cluster.hosts
        if answers[host.name].facts is not None
    }
    if facts:
        slots = {host.name: host.slots for host in cluster.hosts}
        sentences += [
            found.sentence()
            for found in (
                *comparison.software(facts),
                *comparison.own_names(facts, request["backend"]),
                *comparison.interfaces(facts, request["interface"]),
                *comparison.way_back(facts, request["launcher"]),
                *comparison.flagfiles(facts, request["flagfiles"]),
                *comparison.data(facts, request["data_dir"]),
                *comparison.gpus(facts, slots),
            )
        ]
    return sentences


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
        rows.append((host.name, str(host.slots), *cells))
    return finding.table(rows)
