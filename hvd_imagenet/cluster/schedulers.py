"""Where the hosts of a job are named: by the user, or by a scheduler."""

import re
from collections import Counter
from collections.abc import Mapping

from hvd_imagenet.cluster import hosts as hosts_lib
from hvd_imagenet.cluster.hosts import Cluster, Host

_COUNT = re.compile(r"(?P<count>\d+)(?:\(x(?P<times>\d+)\))?")


def find(
    *,
    hosts: str | None,
    hostfile: str | None,
    slots_per_host: int | None,
    environ: Mapping[str, str],
) -> Cluster:
    """The hosts that the user names, or else those of the scheduler.

    Args:
        hosts: as `parse_list` takes it, None if not given.
        hostfile: path of a file as `parse_file` takes it, None if not given.
        slots_per_host: processes on hosts whose number is not given, and on
            all hosts of a scheduler.
        environ: environment variables, of Slurm, PBS or LSF if within a job.

    Raises:
        ValueError: there are no hosts, or they cannot be understood.
    """
    if hosts is not None:
        parsed, source = (
            hosts_lib.parse_list(hosts, slots_per_host),
            f"--hosts={hosts}",
        )
    elif hostfile is not None:
        source = f"--hostfile={hostfile}"
        parsed = hosts_lib.parse_file(_read(source, hostfile), slots_per_host)
    elif "SLURM_JOB_NODELIST" in environ:
        parsed, source = from_slurm(environ, slots_per_host), "the Slurm job"
    else:
        for name in ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE"):
            if name in environ:
                source = f"{name}={environ[name]}"
                text = _read(source, environ[name])
                parsed = parse_machine_file(text, slots_per_host)
                break
        else:
            raise ValueError(
                "no hosts are given; name them with"
                " --hosts=host1:8,host2:8 or --hostfile, or start this within"
                " a job of Slurm, PBS or LSF."
            )
    return Cluster(hosts=parsed, source=source)


def parse_machine_file(
    text: str, slots_per_host: int | None
) -> tuple[Host, ...]:
    """Hosts of a scheduler's file, which has one line per process.

    Args:
        text: one host name per line, repeated for every process.
        slots_per_host: processes on every host, whatever the lines say.
    """
    return tuple(
        Host(name=name, slots=slots_per_host or lines)
        for name, lines in Counter(hosts_lib.stripped_lines(text)).items()
    )


def from_slurm(
    environ: Mapping[str, str], slots_per_host: int | None
) -> tuple[Host, ...]:
    """Hosts of the Slurm job that this process is in.

    One process per GPU, if the job has GPUs, or else one per task.

    Args:
        environ: with SLURM_JOB_NODELIST.
        slots_per_host: processes on every host, whatever Slurm says.

    Raises:
        ValueError: the variables cannot be understood.
    """
    names = hosts_lib.expand(environ["SLURM_JOB_NODELIST"])
    if slots_per_host is not None:
        return tuple(hosts_lib.with_slots(names, slots_per_host))
    for variable in (
        "SLURM_GPUS_ON_NODE",
        "SLURM_GPUS_PER_NODE",
        "SLURM_NTASKS_PER_NODE",
    ):
        # The second may have a type, as in a100:8.
        number = environ.get(variable, "").rpartition(":")[2]
        if number.isdecimal() and int(number):
            return tuple(hosts_lib.with_slots(names, int(number)))
    tasks = expand_counts(environ.get("SLURM_TASKS_PER_NODE", ""))
    if len(tasks) != len(names):
        raise ValueError(
            f"SLURM_JOB_NODELIST has {len(names)} hosts and"
            f" SLURM_TASKS_PER_NODE tasks of {len(tasks)}; give the number of"
            " processes with --slots_per_host."
        )
    return tuple(
        Host(name=name, slots=slots)
        for name, slots in zip(names, tasks, strict=True)
    )


def expand_counts(text: str) -> list[int]:
    """The numbers in Slurm's `4(x2),3`: 4, 4, 3.

    Raises:
        ValueError: it cannot be understood.
    """
    counts = []
    for item in filter(None, text.split(",")):
        match = _COUNT.fullmatch(item)
        if not match:
            raise ValueError(
                f"'{item}' of SLURM_TASKS_PER_NODE={text} is not understood;"
                " give the number of processes with --slots_per_host."
            )
        times = int(match["times"] or 1)
        hosts_lib.limit(len(counts) + times, text)
        counts += [int(match["count"])] * times
    return counts


def _read(source: str, path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{source} cannot be read ({error}); name another file."
        ) from error
