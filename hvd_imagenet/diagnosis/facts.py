"""What a process of a job finds out by itself, before it joins the others."""

import hashlib
import json
import os
import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from hvd_imagenet import convolutions, distributed
from hvd_imagenet.cluster import host_facts
from hvd_imagenet.config import Config
from hvd_imagenet.diagnosis import versions
from hvd_imagenet.kernels import batch_norm, half, random_crop, shared_mean
from hvd_imagenet.kernels.loading import MissingKernelError

_SHARED_MEMORY = "/dev/shm"


def gather(
    config: Config, flagfiles: Sequence[str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Facts of this process and its host, as JSON.

    Args:
        config: of the job.
        flagfiles: paths of its recipes.
        environ: environment variables.

    Returns:
        What `host_facts.gather` tells, and:
        "host": the name that the launcher knows it by;
        "untried": see `versions.untried`;
        "build": see `distributed.describe_build`;
        "wants_xla": whether Horovod's operations are to be compiled by XLA;
        "tensorflow_gpus": GPUs that TensorFlow sees;
        "recipe": eight digits of the recipe's values;
        "open_files": soft and hard limit, -1 for none;
        "shared_memory": free bytes, None if there is none.
    """
    request = {
        "data_dir": config.data.local_data_dir,
        "flagfiles": list(flagfiles),
        "interface": environ.get("HOROVOD_GLOO_IFACE"),
        "launcher": None,
    }
    recipe = json.dumps(config.recipe(), sort_keys=True)
    return {
        **host_facts.gather(request),
        "host": host_name(environ),
        "untried": versions.untried(),
        "build": distributed.describe_build(),
        "wants_xla": environ.get("HOROVOD_ENABLE_XLA_OPS", "0") != "0",
        "tensorflow_gpus": len(tf.config.list_physical_devices("GPU")),
        "recipe": hashlib.sha256(recipe.encode()).hexdigest()[:8],
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "shared_memory": _free(_SHARED_MEMORY),
    }


def missing_kernels() -> dict[str, str | None]:
    """Why compiled operations are not used, by name; None for those that are.

    Of those that the device of this process has a use for. TensorFlow runs
    them, so the devices have to be chosen before.
    """

    def missing(load: Callable[[], Any]) -> str | None:
        try:
            load()
        except MissingKernelError as error:
            return str(error)
        return None

    operations = {"input kernel": random_crop.load}
    if not tf.config.get_visible_devices("GPU"):
        operations["batch normalization"] = batch_norm.load
        operations["convolutions"] = convolutions.load
        operations["exchange within a host"] = shared_mean.load
        operations["half precision"] = half.load
    return {name: missing(load) for name, load in operations.items()}


def host_name(environ: Mapping[str, str]) -> str:
    """The name that the launcher knows this host by, or its own."""
    return environ.get("HOROVOD_HOSTNAME") or socket.gethostname()


def backend(environ: Mapping[str, str]) -> str:
    """By what processes that a launcher started find each other."""
    by_mpi = any(n.startswith(("OMPI_COMM_", "PMI_")) for n in environ)
    if environ.get("HOROVOD_CONTROLLER", "mpi") == "mpi" and by_mpi:
        return "mpi"
    return "gloo"


def resolved(names: Sequence[str]) -> dict[str, bool]:
    """Whether each of some host names has an address here."""
    return {name: host_facts.resolves(name) for name in names}


def _free(folder: str) -> int | None:
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
