"""The commands that run a job in containers of the image that docker/ makes."""

import dataclasses
import os
import shlex
from collections.abc import Iterable, Sequence

from hvd_imagenet import environment
from hvd_imagenet.cluster.command import CONTINUED
from hvd_imagenet.cluster.hosts import Cluster
from hvd_imagenet.cluster.options import LaunchOptions
from hvd_imagenet.config import Config

# Where the image has what.
_SSH_PORT = 12345
_KEY = "/run/secrets/ssh/id_ed25519"
_DATA = "/data"
_RUNS = "/runs"

_NAME = "hvd_imagenet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Containers:
    """A job in containers, one per host, which share their hosts' network.

    Attributes:
        options: what is asked of the launch, an image too.
        cluster: hosts and their processes.
        remote: names of the hosts that are not this one.
        identity_file: absolute path of a private key, with its public one
            beside it, on every host; None if not given.
        config: what is asked of the training, with paths of the hosts.
        training: the flags that gave `config`, without flagfiles.
        variables: names of the environment variables to pass on.

    Raises:
        ValueError: there is no key for several hosts.
    """

    options: LaunchOptions
    cluster: Cluster
    remote: tuple[str, ...]
    identity_file: str | None
    config: Config
    training: tuple[str, ...]
    variables: tuple[str, ...]

    def __post_init__(self):
        if self.remote and self.identity_file is None:
            raise ValueError(
                f"--image={self.options.image} on several hosts needs"
                " --ssh_identity_file, a key for the containers alone, at the"
                " same path on every host and readable by the image's user;"
                " ssh-keygen -t ed25519 -N '' -f FILE makes one."
            )

    def text(self) -> str:
        """The commands for a shell on this host, in their order."""
        job = CONTINUED.join(map(shlex.join, self._job()))
        here = f"# Here: asks all hosts, then runs horovodrun.\n{job}\n"
        if not self.remote:
            return here
        waiting = self._on_remote(
            [
                ["docker", "run", "--detach", "--rm", "--name", _NAME],
                *self._options(),
                [self.options.image, "sshd"],
            ]
        )
        stop = self._on_remote([["docker", "stop", _NAME]])
        return (
            f"# On the other hosts: wait for horovodrun.\n{waiting}\n{here}\n"
            f"# Afterwards.\n{stop}"
        )

    def _job(self) -> list[list[str]]:
        """The launch again, inside, in the lines to write it in."""
        flags = {
            "hosts": self.cluster,
            "backend": self.options.backend,
            "program": self._program(),
            "network_interface": self.options.network_interface,
            "start_timeout_seconds": self.options.start_timeout_seconds,
            "pass_variables": ",".join(self.options.pass_variables) or None,
            # Its ssh knows the key.
            "ssh_port": _SSH_PORT if self.remote else None,
        }
        # The last value of a flag counts.
        paths = {
            "workdir": f"{_RUNS}/{os.path.basename(self._workdir())}",
            "data_dir": self.config.data.local_data_dir and _DATA,
        }
        return [
            ["docker", "run", "--rm"],
            *self._options(),
            *(["--env", name] for name in self._tuning()),
            [self.options.image, "python", "-m", "hvd_imagenet.launch"],
            *_flags(flags),
            ["--run", "--"],
            *([flag] for flag in self.training),
            *_flags(paths),
        ]

    def _options(self) -> list[list[str]]:
        """What all of the containers are run with."""
        volumes = [f"{os.path.dirname(self._workdir())}:{_RUNS}"]
        if self.config.data.local_data_dir is not None:
            data_dir = os.path.abspath(self.config.data.local_data_dir)
            volumes.append(f"{data_dir}:{_DATA}:ro")
        if self.remote:
            volumes += [
                f"{self.identity_file}{end}:{_KEY}{end}:ro"
                for end in ("", ".pub")
            ]
        return [
            ["--network", "host", "--gpus", "all"],
            # NCCL exchanges within a host by shared memory, of which Docker
            # gives 64 MB, and locks memory for the network card.
            ["--shm-size", "8g", "--ulimit", "memlock=-1"],
            *(["--volume", volume] for volume in volumes),
        ]

    def _program(self) -> str | None:
        """What to run instead of the training."""
        program = self.options.program
        return program if program != "train" else None

    def _workdir(self) -> str:
        return os.path.abspath(self.config.run.workdir)

    def _tuning(self) -> tuple[str, ...]:
        """Names that mean the same in a container."""
        more = self.options.pass_variables
        kept = set(environment.tuning(self.variables)) | set(more)
        return tuple(sorted(kept))

    def _on_remote(self, lines: Sequence[Sequence[str]]) -> str:
        """A loop over the other hosts; ssh hands words on to a shell."""
        quoted = (shlex.join(map(shlex.quote, line)) for line in lines)
        port = self.options.ssh_port
        ssh = f'ssh -p {port} "$host"' if port else 'ssh "$host"'
        command = f"{CONTINUED}  ".join([ssh, *quoted])
        return f"for host in {shlex.join(self.remote)}; do\n  {command}\ndone\n"


def _flags(values: dict[str, object]) -> Iterable[list[str]]:
    return (
        [f"--{name}={value}"]
        for name, value in values.items()
        if value is not None
    )
