"""From what is asked of a launch to commands, and to the answers of hosts."""

import contextlib
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Collection, Mapping, Sequence

from hvd_imagenet import environment as environment_lib
from hvd_imagenet import flags, imagenet
from hvd_imagenet.cluster import network, preflight, survey
from hvd_imagenet.cluster.command import HorovodRun
from hvd_imagenet.cluster.hosts import Cluster
from hvd_imagenet.cluster.options import HostOptions
from hvd_imagenet.config import Config
from hvd_imagenet.plan import Plan, make_plan

# How long the ranks of several hosts wait for each other: they start Python
# and TensorFlow from whatever file server there is, and every rank connects
# to every other. With Gloo's own 30 seconds a rank that came 45 seconds after
# the other ended the job (two ranks on one host).
_TIMEOUT_SECONDS = 60
_TIMEOUT_SECONDS_PER_PROCESS = 1


def check_training(config: Config, cluster: Cluster) -> Plan:
    """What the job would do, without a look at its data.

    Raises:
        ValueError: what every rank would end with: no directory of the run or
            of the images, or a batch that the processes cannot share.
    """
    if config.run.dry_run:
        raise ValueError(
            "--dry_run needs no hosts; run python -m hvd_imagenet.train with"
            f" it and --world_size={cluster.world_size}."
        )
    if config.run.elastic:
        raise ValueError(
            "--elastic needs hosts that may change, and a launch has those that"
            " it begins with; start horovodrun with --min-np and"
            " --host-discovery-script itself."
        )
    if config.run.workdir is None:
        raise ValueError(
            "--workdir is not given behind --; name a directory for the run."
        )
    if config.data.data_dir is None and config.data.data_format != "synthetic":
        raise ValueError(
            "--data_dir is not given behind --; name the directory of the"
            " images, or use --data_format=synthetic."
        )
    return make_plan(
        config,
        world_size=cluster.world_size,
        train_images=config.data.train_images or imagenet.TRAIN_IMAGES,
        validation_images=config.data.validation_images
        or imagenet.VALIDATION_IMAGES,
    )


def find_remote(cluster: Cluster) -> dict[str, str | None]:
    """Address by name of the hosts that horovodrun reaches by ssh.

    None for a name without an address: horovodrun tries that one too.
    """
    own = network.own_addresses()
    return {
        name: address
        for name, address in network.resolve(cluster.names).items()
        if address not in own
    }


def part_environment(
    options: HostOptions, environ: Mapping[str, str]
) -> environment_lib.Environment:
    """What the processes of the job get, and what not.

    Raises:
        ValueError: see `environment.part`.
    """
    return environment_lib.part(
        environ,
        backend=options.backend,
        more=options.pass_variables,
    )


def find_identity_file(options: HostOptions) -> str | None:
    """Absolute path of the private key for ssh, None if none is given.

    Raises:
        ValueError: it is not there.
    """
    if options.ssh_identity_file is None:
        return None
    path = os.path.abspath(os.path.expanduser(options.ssh_identity_file))
    if not os.path.isfile(path):
        raise ValueError(
            f"--ssh_identity_file={options.ssh_identity_file} is not a file;"
            " name a private key."
        )
    return path


def make_command(
    options: HostOptions,
    cluster: Cluster,
    remote: Mapping[str, str | None],
    identity_file: str | None,
    training: Sequence[str],
    environ: Mapping[str, str],
    program: str = "train",
) -> HorovodRun:
    """The horovodrun command, with all that it needs to be right.

    Args:
        options: what is asked for.
        cluster: the hosts.
        remote: those of them to reach by ssh.
        identity_file: private key for ssh, None for ssh's own.
        training: flags of the program.
        environ: environment variables, for timeouts of the user's own.
        program: module of hvd_imagenet to run.

    Raises:
        ValueError: a program, file or interface is missing or cannot be used.
    """
    horovodrun = os.path.join(os.path.dirname(sys.executable), "horovodrun")
    if not os.path.exists(horovodrun):
        raise ValueError(
            f"Horovod is not installed for {sys.executable}; run tools/setup,"
            " or use the Python that has it."
        )
    if options.backend == "mpi" and not shutil.which("mpirun"):
        raise ValueError(
            "--backend=mpi needs mpirun, which is not on the PATH; load your"
            " MPI's module, or use --backend=gloo."
        )
    interface = start_timeout = gloo_timeout = None
    if remote:
        own = network.own_addresses()
        interface = options.network_interface
        if interface is None:
            interface = network.choose_interface(remote, own)
        network.interface_address(interface, own)
        timeout = (
            _TIMEOUT_SECONDS + _TIMEOUT_SECONDS_PER_PROCESS * cluster.world_size
        )
        if "HOROVOD_START_TIMEOUT" not in environ:
            start_timeout = timeout
        if "HOROVOD_GLOO_TIMEOUT_SECONDS" not in environ:
            gloo_timeout = timeout
    command = HorovodRun(
        horovodrun=horovodrun,
        python=sys.executable,
        cluster=cluster,
        backend=options.backend,
        network_interface=interface,
        ssh_port=options.ssh_port,
        ssh_identity_file=identity_file,
        start_timeout_seconds=options.start_timeout_seconds or start_timeout,
        gloo_timeout_seconds=(options.start_timeout_seconds or gloo_timeout)
        if options.backend == "gloo"
        else None,
        program=program,
        training=tuple(training),
    )
    if remote:
        _require_ssh(command)
    return command


def check_hosts(
    command: HorovodRun,
    remote: Collection[str],
    passed: Mapping[str, str],
    config: Config,
) -> tuple[str, list[str]]:
    """Asks every host whether the job can run on it.

    Returns:
        (a table of the answers, sentences on what is in the way).
    """
    with contextlib.ExitStack() as stack:
        launcher = None
        if remote:
            address = network.interface_address(
                command.network_interface, network.own_addresses()
            )
            # The kernel answers for it: nobody needs to accept.
            listener = stack.enter_context(
                socket.create_server(
                    (address, 0), backlog=len(command.cluster.hosts)
                )
            )
            launcher = listener.getsockname()
        request = {
            "backend": command.backend,
            "data_dir": config.data.local_data_dir,
            "flagfiles": flags.flagfiles(command.training),
            "interface": command.network_interface,
            "launcher": launcher,
        }
        answers = survey.ask(
            command.cluster.names,
            survey.Question(
                python=command.python,
                remote=remote,
                ssh_port=command.ssh_port,
                ssh_identity_file=command.ssh_identity_file,
                environment=passed,
                directory=os.getcwd(),
                request=request,
            ),
        )
    return (
        preflight.table(command.cluster, answers),
        preflight.problems(command.cluster, answers, request),
    )


def _require_ssh(command: HorovodRun) -> None:
    if not shutil.which("ssh"):
        raise ValueError(
            "ssh is not on the PATH, by which horovodrun starts processes on"
            " other hosts; install it (openssh-client)."
        )
    for what, path in {
        "the current directory": os.getcwd(),
        "--ssh_identity_file": command.ssh_identity_file or "",
    }.items():
        if path and shlex.quote(path) != path:
            raise ValueError(
                f"{what}, {path}, has characters that horovodrun does not"
                " quote for ssh; use a path of letters, digits and -_./"
            )
