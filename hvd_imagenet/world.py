"""Where a process runs: its rank and the number of processes."""

import dataclasses
from collections.abc import Mapping

# Begin the variables that horovodrun (Gloo), Open MPI's and MPICH's mpirun set
# for every worker.
_LAUNCHER_PREFIXES = ("HOROVOD_", "OMPI_COMM_WORLD_", "PMI_")


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The place of one process among all processes of the job.

    Attributes:
        rank: number of this process, 0 to `size` - 1.
        size: number of processes.
        local_rank: number of this process on its host, 0 to `local_size` - 1.
        local_size: number of processes on this host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def __post_init__(self):
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"rank {self.rank} is outside 0 to {self.size - 1}, the ranks"
                f" of {self.size} processes."
            )
        if not 0 <= self.local_rank < self.local_size <= self.size:
            raise ValueError(
                f"local rank {self.local_rank} of {self.local_size} does not"
                f" fit a world of {self.size} processes."
            )

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the run directory."""
        return self.rank == 0


def launched_size(environ: Mapping[str, str]) -> int | None:
    """Number of processes a launcher started, None without a launcher."""
    return _launched(environ, "SIZE")


def launched_rank(environ: Mapping[str, str]) -> int | None:
    """Rank that a launcher gave this process, None without a launcher."""
    return _launched(environ, "RANK")


def launched_local_size(environ: Mapping[str, str]) -> int | None:
    """Number of processes a launcher started on this host, None without one."""
    return _launched(environ, "LOCAL_SIZE")


def is_elastic(environ: Mapping[str, str]) -> bool:
    """Whether the launcher goes on when processes leave or join."""
    return environ.get("HOROVOD_ELASTIC") == "1"


def _launched(environ: Mapping[str, str], name: str) -> int | None:
    for prefix in _LAUNCHER_PREFIXES:
        if prefix + name in environ:
            return int(environ[prefix + name])
    return None
