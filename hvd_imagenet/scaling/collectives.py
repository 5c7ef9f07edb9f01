"""Time of an allreduce, by algorithm: the alpha-beta-gamma model.

A message of m bytes takes alpha + m beta, adding its bytes m gamma; a worker
sends and receives at once. Thakur, Rabenseifner and Gropp 2005, "Optimization
of Collective Communication Operations in MPICH", section 2; Goyal 2017 (arXiv
1706.02677), section 4.1, counts the same steps and bytes.
"""

from hvd_imagenet.scaling.network import Network

ALGORITHMS = ("ring", "halving_doubling")
HIERARCHIES = ("flat", "leaders", "shards")


def allreduce_seconds(
    count: float,
    workers: int,
    network: Network,
    *,
    algorithm: str,
    hierarchy: str = "flat",
) -> float:
    """Time in which all workers get the sum of their buffers.

    Args:
        count: bytes of the buffer.
        workers: at least 1; those of a host are neighbours.
        network: what joins them.
        algorithm: one of `ALGORITHMS`.
        hierarchy: "flat" runs the algorithm over all workers. "leaders" sums
            in every host, runs it between one worker of each, and broadcasts
            in the host (Goyal 2017, section 4.1). "shards" gives every worker
            of a host the sum of a part of the buffer, runs it for every part
            between the hosts, whose links the workers share, and gathers the
            parts.

    Raises:
        ValueError: the workers do not fill their hosts.
    """
    hosts = network.hosts(workers)
    between = ring_seconds if algorithm == "ring" else halving_seconds
    if hierarchy == "flat":
        return between(count, workers, network)
    local = workers // hosts
    inside, gamma = network.inside_host, network.reduction_seconds_per_byte
    if hierarchy == "leaders":
        # Each a pipeline along the workers of a host.
        passing = (local - 1) * inside.latency_seconds
        if local > 1:
            passing += count * inside.seconds_per_byte
        added = count * gamma if local > 1 else 0.0
        one_each = Network(
            between_hosts=network.between_hosts,
            reduction_seconds_per_byte=gamma,
        )
        return 2 * passing + added + between(count, hosts, one_each)
    part = count / local
    one_each = Network(
        between_hosts=network.between_hosts.shared_by(local),
        reduction_seconds_per_byte=gamma,
    )
    parts = (local - 1) * (2 * inside.seconds(part) + part * gamma)
    return parts + between(part, hosts, one_each)


def ring_seconds(count: float, workers: int, network: Network) -> float:
    """2 (p-1) alpha + 2 (p-1)/p n beta + (p-1)/p n gamma, for one link.

    Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for
    clusters of workstations": p - 1 steps scatter the sums of p parts, p - 1
    gather them. Between hosts each has one neighbour, so it has the link for
    itself; a step lasts as long as its slowest message. Gloo does this over
    all ranks for every fused buffer.
    """
    part = count / workers
    if network.hosts(workers) == 1:
        slowest = network.inside_host.seconds(part)
    elif network.workers_per_host == 1:
        slowest = network.between_hosts.seconds(part)
    else:
        slowest = max(
            network.inside_host.seconds(part),
            network.between_hosts.seconds(part),
        )
    return (workers - 1) * (
        2 * slowest + part * network.reduction_seconds_per_byte
    )


def halving_seconds(count: float, workers: int, network: Network) -> float:
    """2 lg p alpha + 2 (p-1)/p n beta + (p-1)/p n gamma, for one link.

    Recursive halving of the buffer, at doubling distance, scatters the sums,
    recursive doubling gathers them (Rabenseifner; Thakur 2005, section 4.5).
    Where p is no power of two, binary blocks take two more steps, 2 floor(lg p)
    + 2, and hardly more bytes (Goyal 2017, section 4.1). MPICH's way, which
    first folds the workers beyond a power of two into others, would send 2 n
    bytes more.

    Several workers of a host exchange inside it while their distance lasts,
    then all at once over the host's link.
    """
    if workers == 1:
        return 0.0
    steps = workers.bit_length() - 1
    local = network.workers_per_host
    if workers <= local:
        inside_steps, group = steps, workers
    else:
        # Groups of this power of two do not reach beyond a host.
        group = local & -local
        inside_steps = group.bit_length() - 1
    is_power_of_two = workers & (workers - 1) == 0
    outside_steps = steps - inside_steps + (0 if is_power_of_two else 1)
    inside = network.inside_host
    outside = (
        inside if workers <= local else network.between_hosts.shared_by(local)
    )
    moved_inside = count * (1 - 1 / group)
    moved_outside = count * (1 / group - 1 / workers)
    return (
        2 * inside_steps * inside.latency_seconds
        + 2 * moved_inside * inside.seconds_per_byte
        + 2 * outside_steps * outside.latency_seconds
        + 2 * moved_outside * outside.seconds_per_byte
        + count * (1 - 1 / workers) * network.reduction_seconds_per_byte
    )
