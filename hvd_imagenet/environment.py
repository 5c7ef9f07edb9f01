"""Which environment variables the processes of a job get.

horovodrun writes its whole environment into the command lines that it starts
processes with, where every user of every host can read it. So only variables
that are known to matter are passed on, and none that looks like a secret.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping

_SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "PASSW", "CREDENTIAL", "JWT")
_USER_IN_URL = re.compile(r"://[^/\s@]*:[^/\s@]+@")

# Where programs and files are found, and who runs them.
_NAMES = (
    "CONDA_PREFIX",
    "HOME",
    "LANG",
    "LOGNAME",
    "PATH",
    "SSH_AUTH_SOCK",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
)
_PREFIXES = ("LC_", "LD_", "PYTHON")
# How the libraries work.
_TUNING_PREFIXES = (
    "CUDA_",
    "CUDNN_",
    "GLOO_",
    "GOMP_",
    "HOROVOD_",
    "KERAS_",
    "KMP_",
    "MALLOC_",
    "MKL_",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "TF_",
    "XLA_",
)
# mpirun finds its own settings and the scheduler in them. Gloo needs none,
# and LSB_JOBID would make horovodrun ask a scheduler that is not there.
_MPI_PREFIXES = (
    "FI_",
    "HYDRA_",
    "I_MPI_",
    "LSB_",
    "MPICH_",
    "OMPI_",
    "OPAL_",
    "PBS_",
    "PMI",
    "PRTE_",
    "SLURM_",
    "UCX_",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """An environment, parted by what is passed on.

    Attributes:
        passed: value by name of what the processes get.
        secret: names of what is left out because it looks like a secret.
        other: names of the rest, which is left out too.
    """

    passed: Mapping[str, str]
    secret: tuple[str, ...]
    other: tuple[str, ...]


def part(
    environ: Mapping[str, str], *, backend: str, more: Collection[str] = ()
) -> Environment:
    """Parts an environment into what is passed on and what is not.

    Args:
        environ: environment variables.
        backend: "gloo" or "mpi".
        more: names to pass on besides those that are known to matter.

    Raises:
        ValueError: one of `more` is not set, or looks like a secret.
    """
    for name in more:
        if name not in environ:
            raise ValueError(
                f"--pass_variables={name} is not set here; set it, or leave"
                " the name out."
            )
        if looks_secret(name, environ[name]):
            raise ValueError(
                f"--pass_variables={name} looks like a secret, and would show"
                " in the process list of every host; leave it in a file that"
                " only you can read there."
            )
    prefixes = _PREFIXES + _TUNING_PREFIXES
    if backend == "mpi":
        prefixes += _MPI_PREFIXES
    passed, secret, other = {}, [], []
    for name, value in sorted(environ.items()):
        if looks_secret(name, value):
            secret.append(name)
        elif name in _NAMES or name.startswith(prefixes) or name in more:
            passed[name] = value
        else:
            other.append(name)
    return Environment(passed=passed, secret=tuple(secret), other=tuple(other))


def tuning(names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that tune the libraries, and mean the same anywhere."""
    return tuple(name for name in names if name.startswith(_TUNING_PREFIXES))


def describe(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that steer Horovod and its transports.

    Without what looks like a secret: Horovod passes one to its workers.
    """
    prefixes = ("HOROVOD_", "NCCL_", "CUDA_VISIBLE_DEVICES", "OMP_")
    return {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(prefixes) and not looks_secret(name, value)
    }


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable holds what others must not read, by all it shows."""
    return any(word in name.upper() for word in _SECRET_WORDS) or bool(
        _USER_IN_URL.search(value)
    )
