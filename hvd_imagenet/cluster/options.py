"""What can be asked of a launch."""

import dataclasses

from hvd_imagenet.knobs import Checked, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostOptions(Checked):
    """Hosts and the way to them.

    Raises:
        ValueError: a value is outside its limits, or two do not fit together.
    """

    hosts: str | None = site(
        None,
        "Hosts and their number of processes, as in host1:8,host2:8 or"
        " node[01-03]:8; rank 0 is on the first. Default: those of the Slurm,"
        " PBS or LSF job that this is started in.",
    )
    hostfile: str | None = site(
        None,
        "File of hosts instead, lines as 'host slots=8', 'host:8' or 'host'.",
    )
    slots_per_host: int | None = site(
        None,
        "Processes on every host whose number is not given. Default: one per"
        " GPU of a Slurm job, or else what the scheduler says.",
        unit="processes",
        minimum=1,
    )
    backend: str = site(
        "gloo",
        "How the processes find each other and talk besides NCCL.",
        choices=("gloo", "mpi"),
    )
    network_interface: str | None = site(
        None,
        "Network interface for the training's traffic; must have this name on"
        " every host. Default: the one that leads to the other hosts.",
    )
    ssh_port: int | None = site(
        None,
        "Port of sshd on every host. Default: ssh's own.",
        minimum=1,
        maximum=65_535,
    )
    ssh_identity_file: str | None = site(
        None, "Private key for ssh. Default: ssh's own."
    )
    start_timeout_seconds: int | None = site(
        None,
        "How long processes wait for each other at the start and, with Gloo,"
        " in every exchange, which is how soon a lost one is noticed. Default"
        " with several hosts: 60 plus 1 per process, or what"
        " HOROVOD_START_TIMEOUT and HOROVOD_GLOO_TIMEOUT_SECONDS say.",
        unit="seconds",
        minimum=1,
    )
    pass_variables: tuple[str, ...] = site(
        (),
        "Names, between commas, of environment variables that the processes"
        " get besides those that are known to matter. They show in the process"
        " list of every host.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.hosts is not None and self.hostfile is not None:
            raise ValueError(
                f"--hosts={self.hosts} and --hostfile={self.hostfile} both"
                " name the hosts; give one of them."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchOptions(HostOptions):
    """Hosts, the way to them, and what to do.

    Raises:
        ValueError: a value is outside its limits, or two do not fit together.
    """

    run: bool = site(False, "Start the command, not only print it.")
    program: str = site(
        "train",
        "What the processes run: hvd_imagenet.train, or hvd_imagenet.doctor,"
        " which examines hosts and network and trains nothing.",
        choices=("train", "doctor"),
    )
    check: bool | None = site(
        None,
        "Ask every host, before it is started, whether it answers, has the"
        " same software and data as the others and enough free GPUs. Default:"
        " with --run.",
    )
    image: str | None = site(
        None,
        "Print the commands that run the job in containers of this image"
        " instead.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.image is not None and (self.run or self.check):
            raise ValueError(
                f"--image={self.image} only prints commands, whose last one"
                " checks and runs inside; leave --run and --check out."
            )
