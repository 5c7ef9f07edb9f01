"""Processes that train together: the only module that imports Horovod.

`start` gives a `Processes`, through which all communication goes.
"""

import os
import socket
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from hvd_imagenet import devices, shared_memory
from hvd_imagenet.horovod_processes import HorovodProcesses
from hvd_imagenet.processes import Processes
from hvd_imagenet.world import World, is_elastic, launched_size

# Used where there is no GPU, unless the environment says otherwise. Horovod's
# thread wakes up every 1 ms by default, which costs CPU ranks their cores:
# ResNet-50 on two ranks of one core each went from 6.3 to 7.1 images/s with
# 10 ms.
_CPU_ENVIRONMENT = {"HOROVOD_CYCLE_TIME": "10"}


def start(
    *,
    compression: str = "none",
    transport: str = "auto",
    xla: bool = False,
    timeline: bool = False,
    again: bool = False,
    environ: MutableMapping[str, str] = os.environ,
) -> Processes:
    """Joins the other processes, if a launcher started any.

    Pins this process to one GPU and sizes TensorFlow's thread pools by the
    cores per process, so it must come before anything that runs on a device.

    Args:
        compression: "none", "fp16" or "bf16", the format of gradients on the
            wire. One process without a launcher has none.
        transport: "auto", or "horovod" to exchange the gradients of a step by
            Horovod also between processes that could share memory: all on one
            host, without GPUs, not elastic.
        xla: whether XLA is to compile clusters of operations, within the
            limits that `clusters` has set before.
        timeline: whether `Processes.timeline` will be used, which shows what
            Horovod does; it then does all.
        again: whether to leave those who were joined before, and join those
            who are there now; of an elastic launcher. Devices stay.
        environ: environment variables; Horovod's own win over our defaults.

    Raises:
        ValueError: a launcher started this process but Horovod is not
            installed or cannot sum the format, or there are fewer GPUs than
            processes on this host.
    """
    gpus = tf.config.list_physical_devices("GPU")
    launched = launched_size(environ)
    if launched is None:
        processes = Processes()
    else:
        if not gpus and not is_elastic(environ):
            for name, value in _CPU_ENVIRONMENT.items():
                environ.setdefault(name, value)
        if timeline:
            environ.setdefault("HOROVOD_TIMELINE", "DYNAMIC")
        processes = HorovodProcesses(
            _init_horovod(None if is_elastic(environ) else launched),
            compression,
            has_gpus=bool(gpus),
        )
    if not again:
        _choose_devices(gpus, processes.world)
        if xla:
            # Of the functions that this thread calls: those of an input
            # pipeline, whose images have any size, are not looked at.
            tf.config.optimizer.set_jit("autoclustering")
    if (
        transport == "auto"
        and 1 < processes.world.size == processes.world.local_size
        and not (gpus or timeline or is_elastic(environ))
    ):
        memory, problem = shared_memory.join(processes)
        if memory is not None:
            processes.share(memory)
        elif processes.world.is_first:
            logging.warning("Gradients travel by Horovod: %s.", problem)
    if gpus:
        here = (socket.gethostname(), environ.get("CUDA_VISIBLE_DEVICES", ""))
        visible = [
            numbers
            for host, numbers in processes.gather_object(here)
            if host == here[0]
        ]
        devices.require_gpu_each(len(gpus), processes.world, visible)
    return processes


def _choose_devices(gpus: Sequence[Any], world: World) -> None:
    """What cannot be changed after an exchange has started the devices."""
    threads = devices.threads_per_process(world)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # A second one lets an operation start while another one waits for the
    # network.
    tf.config.threading.set_inter_op_parallelism_threads(max(2, threads))
    if gpus:
        gpu = devices.choose_gpu(len(gpus), world)
        tf.config.set_visible_devices(gpus[gpu], "GPU")
        tf.config.experimental.set_memory_growth(gpus[gpu], True)


def call_when_hosts_change(call: Callable[[], None]) -> None:
    """Makes an elastic launcher's news known, from a thread of its own.

    It tells rank 0 alone.
    """
    # Horovod's own `elastic.run` and its states do not work with Keras 3, and
    # take some failures within a `tf.function` for success.
    from horovod.common import elastic

    class Listener:
        def on_hosts_updated(self, timestamp, update):
            call()

    elastic.notification_manager.init()
    elastic.notification_manager.register_listener(Listener())


def is_exchange_failure(error: BaseException) -> bool:
    """Whether an exchange failed, as it does where another rank has gone."""
    return isinstance(error, tf.errors.OpError) and (
        "orovod" in str(error) or shared_memory.is_failure(error)
    )


def describe_build() -> dict[str, Any] | str:
    """What the installed Horovod was built with.

    Returns:
        {"gloo": whether, "mpi": whether, "nccl": version number or 0}, or why
        it cannot be loaded.
    """
    try:
        import horovod.tensorflow as hvd
    except (ImportError, OSError, AttributeError, tf.errors.OpError) as error:
        return str(error).strip().splitlines()[0]
    return {
        "gloo": bool(hvd.gloo_built()),
        "mpi": bool(hvd.mpi_built()),
        "nccl": int(hvd.nccl_built()),
    }


def _init_horovod(launched: int | None) -> Any:
    """Horovod among `launched` processes; None if they may be any number."""
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise ValueError(
            "A launcher started this process, but Horovod cannot be imported"
            f" ({error}); run tools/setup, or start one process without the"
            " launcher."
        ) from error
    hvd.shutdown()
    hvd.init()
    if launched is not None and hvd.size() != launched:
        # Every process would train alone, and write the same run.
        raise ValueError(
            f"A launcher started {launched} processes, but Horovod joined"
            f" {hvd.size()}: it cannot be started by this launcher, as a build"
            " without MPI by mpirun; start it with horovodrun --gloo, or build"
            " it with HOROVOD_WITH_MPI=1."
        )
    return hvd
