"""The horovodrun command of a job."""

import dataclasses
import shlex
import textwrap
from collections.abc import Iterable

from hvd_imagenet.cluster.hosts import Cluster

# Between two lines of a command for a shell.
CONTINUED = " \\\n  "


@dataclasses.dataclass(frozen=True, kw_only=True)
class HorovodRun:
    """A horovodrun command.

    Attributes:
        horovodrun: path of horovodrun.
        python: path of the interpreter, on every host.
        cluster: hosts and their processes.
        backend: "gloo" or "mpi".
        network_interface: name on every host; None if all is on one host,
            where horovodrun takes the loopback.
        ssh_port: None for ssh's own.
        ssh_identity_file: None for ssh's own.
        start_timeout_seconds: None for horovodrun's own.
        gloo_timeout_seconds: None for Gloo's own.
        program: module of hvd_imagenet to run.
        training: its flags.
    """

    horovodrun: str
    python: str
    cluster: Cluster
    backend: str = "gloo"
    network_interface: str | None = None
    ssh_port: int | None = None
    ssh_identity_file: str | None = None
    start_timeout_seconds: int | None = None
    gloo_timeout_seconds: int | None = None
    program: str = "train"
    training: tuple[str, ...] = ()

    def lines(self) -> list[list[str]]:
        """The command's arguments, in the lines to write them in."""
        options = [
            ("-p", self.ssh_port),
            ("-i", self.ssh_identity_file),
            ("--network-interface", self.network_interface),
            ("--start-timeout", self.start_timeout_seconds),
            ("--gloo-timeout-seconds", self.gloo_timeout_seconds),
        ]
        return [
            # It would believe checks of an hour ago otherwise.
            [self.horovodrun, f"--{self.backend}", "--disable-cache"],
            ["-np", str(self.cluster.world_size), "-H", str(self.cluster)],
            *(
                [name, str(value)]
                for name, value in options
                if value is not None
            ),
            [self.python, "-m", f"hvd_imagenet.{self.program}"],
            *([flag] for flag in self.training),
        ]

    def arguments(self) -> list[str]:
        """The command as a program is started with it."""
        return [argument for line in self.lines() for argument in line]

    def text(self, variables: Iterable[str]) -> str:
        """The command for a shell.

        Args:
            variables: names of the environment variables to pass on; their
                values do not show.
        """
        assignments = " ".join(f'{name}="${name}"' for name in variables)
        wrapped = textwrap.wrap(
            f"env -i {assignments}",
            76,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return CONTINUED.join([*wrapped, *map(shlex.join, self.lines())]) + "\n"
