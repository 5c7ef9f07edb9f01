"""Prints the command that trains on several hosts, and with --run starts it.

    python -m hvd_imagenet.launch --hosts=host1:8,host2:8 --run -- \\
        --flagfile=flags/goyal2017.flags --data_dir=DATA --workdir=RUN

What stands behind -- are the flags of hvd_imagenet.train. They are checked
here, before any host is touched. The hosts of a Slurm, PBS or LSF job are
found without --hosts. With --run every host is first asked whether it answers,
has the same software and data, and enough free GPUs. With --program=doctor the
same command examines hosts and network, and trains nothing.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence

from absl import app
from absl import flags as absl_flags

from hvd_imagenet import flags, program
from hvd_imagenet.cluster import foreground, launch_job, schedulers
from hvd_imagenet.cluster.containers import Containers
from hvd_imagenet.cluster.hosts import Cluster
from hvd_imagenet.cluster.options import LaunchOptions
from hvd_imagenet.config import Config
from hvd_imagenet.diagnosis.options import DoctorOptions
from hvd_imagenet.environment import Environment
from hvd_imagenet.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for.

    Attributes:
        options: of the launch.
        config: of the training.
        training: the flags that gave `config`, as they were written.
    """

    options: LaunchOptions
    config: Config
    training: tuple[str, ...]


def main(request: Request) -> int:
    """Does what the command line asks for; returns the exit status."""
    try:
        return _launch(request.options, request.config, request.training)
    except ValueError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return program.INTERRUPTED
    except foreground.Stopped as stopped:
        _say("interrupted; the same command resumes from the last checkpoint.")
        return 128 + stopped.signal


def _launch(
    options: LaunchOptions, config: Config, training: Sequence[str]
) -> int:
    # What can be wrong with the request alone.
    cluster = schedulers.find(
        hosts=options.hosts,
        hostfile=options.hostfile,
        slots_per_host=options.slots_per_host,
        environ=os.environ,
    )
    plan = launch_job.check_training(config, cluster)
    environment = launch_job.part_environment(options, os.environ)
    _say_plan(cluster, plan)
    _say_left_out(environment)

    # The commands.
    remote = launch_job.find_remote(cluster)
    if options.network_interface is not None and not remote:
        _say("--network_interface is not used: all hosts are this one.")
    identity_file = launch_job.find_identity_file(options)
    if options.image is not None:
        containers = Containers(
            options=options,
            cluster=cluster,
            remote=tuple(remote),
            identity_file=identity_file,
            config=config,
            training=tuple(flags.without_flagfiles(training)),
            variables=tuple(environment.passed),
        )
        sys.stdout.write(containers.text())
        return 0
    command = launch_job.make_command(
        options,
        cluster,
        remote,
        identity_file,
        training,
        os.environ,
        options.program,
    )
    sys.stdout.write(command.text(environment.passed))
    sys.stdout.flush()

    # The hosts.
    if options.run if options.check is None else options.check:
        table, problems = launch_job.check_hosts(
            command, remote, environment.passed, config
        )
        _say(table)
        if problems:
            _say(*(f"error: {problem}" for problem in problems))
            return 1
    if options.run:
        return foreground.run(command.arguments(), environment.passed)
    return 0


def parse(argv: Sequence[str]) -> Request:
    """What a command line asks for, the training's part behind `--`.

    Raises:
        absl.flags.Error: one of the parts cannot be understood.
    """
    own, separator, training = _split(list(argv))
    options = flags.parse_group(LaunchOptions, own)
    if not separator:
        raise absl_flags.Error(
            "the flags of hvd_imagenet.train are missing; write them behind"
            " --, as in: -- --flagfile=RECIPE --data_dir=DATA --workdir=RUN"
        )
    if training and not training[0].startswith("-"):
        raise absl_flags.Error(
            f"'{training[0]}' is no flag; behind -- stand the flags of"
            " hvd_imagenet.train alone, without the program."
        )
    more_groups = [DoctorOptions] if options.program == "doctor" else []
    config = flags.parse_apart(["hvd_imagenet", *training], *more_groups)
    return Request(options=options, config=config, training=tuple(training))


def _split(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return argv, False, []
    place = argv.index("--")
    return argv[:place], True, argv[place + 1 :]


def _say_plan(cluster: Cluster, plan: Plan) -> None:
    """The size of the job, for people."""
    processes = f"{cluster.world_size} processes"
    several = "s" if len(cluster.hosts) > 1 else ""
    phase = plan.phase(0)
    accumulation = phase.accumulation_steps
    times = f" x {accumulation} times" if accumulation > 1 else ""
    _say(
        f"{processes} on {len(cluster.hosts)} host{several}"
        f" ({cluster.source}): {phase.global_batch_size:,} images a step ="
        f" {phase.batch_size_per_process} x {processes}{times}"
    )


def _say_left_out(environment: Environment) -> None:
    """What the processes do not get of this environment, by name only."""
    if environment.secret:
        _say(f"not passed on, looks secret: {', '.join(environment.secret)}")
    if environment.other:
        _say(
            "not passed on, see --pass_variables:"
            f" {', '.join(environment.other)}"
        )


def _say(*lines: str) -> None:
    """To people; standard output has the commands alone."""
    for line in lines:
        sys.stderr.write(line.rstrip() + "\n")


def run() -> None:
    """Parses the command line and runs the program."""
    flags.define_group(LaunchOptions)
    app.run(main, flags_parser=lambda argv: flags.parse_or_exit(argv, parse))


if __name__ == "__main__":
    run()
