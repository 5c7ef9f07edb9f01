"""What workers are joined by: links between hosts and inside one."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """A way by which a worker or a host sends, and receives as much meanwhile.

    Attributes:
        latency_seconds: alpha, what a message takes whatever its length.
        seconds_per_byte: beta, 1 / bandwidth in bytes per second.
    """

    latency_seconds: float
    seconds_per_byte: float

    def seconds(self, count: float) -> float:
        """Time of a message of `count` bytes."""
        return self.latency_seconds + count * self.seconds_per_byte

    def shared_by(self, senders: int) -> "Link":
        """What each of several has that send at once."""
        return Link(
            latency_seconds=self.latency_seconds,
            seconds_per_byte=self.seconds_per_byte * senders,
        )


FREE = Link(latency_seconds=0.0, seconds_per_byte=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """Equal hosts, each joined to the others by one link.

    Attributes:
        between_hosts: a host's link, which its workers share.
        inside_host: what each worker of a host has to the others of it.
        workers_per_host: at least 1.
        reduction_seconds_per_byte: gamma, time to add a byte received to one's
            own.
    """

    between_hosts: Link
    inside_host: Link = FREE
    workers_per_host: int = 1
    reduction_seconds_per_byte: float = 0.0

    def hosts(self, workers: int) -> int:
        """Hosts that so many workers fill.

        Raises:
            ValueError: the last host would not be full.
        """
        if workers <= self.workers_per_host:
            return 1
        if workers % self.workers_per_host:
            raise ValueError(
                f"{workers} workers do not fill hosts of"
                f" {self.workers_per_host}; take a multiple of it."
            )
        return workers // self.workers_per_host
