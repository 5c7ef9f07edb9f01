"""Processes that train together: the only module that knows Horovod.

`start` gives a `Processes`, through which all communication goes. Horovod's
own Keras API does not work with Keras 3 (its optimizer overrides methods that
Keras 3 never calls), so everything here stands on its tensor operations.
"""

import contextlib
import os
import socket
from collections.abc import (
    Callable,
    Iterator,
    MutableMapping,
    Sequence,
)
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from hvd_imagenet import devices, parts, shared_memory, wire
from hvd_imagenet.processes import Processes
from hvd_imagenet.shared_memory import SharedMemory
from hvd_imagenet.world import World, is_elastic, launched_size

# Used where there is no GPU, unless the environment says otherwise. Horovod's
# thread wakes up every 1 ms by default, which costs CPU ranks their cores:
# ResNet-50 on two ranks of one core each went from 6.3 to 7.1 images/s with
# 10 ms.
_CPU_ENVIRONMENT = {"HOROVOD_CYCLE_TIME": "10"}


class HorovodProcesses(Processes):
    """A world of processes that horovodrun or mpirun started."""

    transport = "Horovod"

    def __init__(self, hvd: Any, compression: str, *, has_gpus: bool):
        """Wraps an initialised `horovod.tensorflow`.

        Args:
            hvd: the module.
            compression: "none", "fp16" or "bf16", the format of gradients on
                the wire.
            has_gpus: whether gradients are on GPUs, which sum half-precision
                numbers as fast as others.

        Raises:
            ValueError: Horovod cannot sum that format.
        """
        super().__init__(
            World(
                rank=hvd.rank(),
                size=hvd.size(),
                local_rank=hvd.local_rank(),
                local_size=hvd.local_size(),
            )
        )
        self._hvd = hvd
        self._has_gpus = has_gpus
        self._memory: SharedMemory | None = None
        self._format = wire.make_format(compression, hvd.size())
        self._parts = None
        if self._format is None:
            return
        if has_gpus or not parts.pays(compression, self.world):
            _require_sum(hvd, compression, self._format.dtype)
            return
        self._parts = parts.PartExchange(
            dtype=self._format.dtype,
            world_size=hvd.size(),
            alltoall=hvd.alltoall,
            allgather=hvd.allgather,
        )

    def average_gradients(
        self, gradients: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        if self._parts is not None:
            return self._parts.average(gradients)
        # One operation per gradient, not one for all: each starts as soon as
        # its gradient is there, while the backward pass goes on.
        return [self._average_gradient(gradient) for gradient in gradients]

    def _average_gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        if self._format is None:
            return self._hvd.allreduce(gradient, op=self._hvd.Average)
        total = self._hvd.allreduce(
            self._format.pack(gradient), op=self._hvd.Sum
        )
        return self._format.unpack(total, gradient.dtype)

    def sum_in_graph(self, values: tf.Tensor) -> tf.Tensor:
        return self._hvd.allreduce(values, op=self._hvd.Sum)

    def exchange(
        self, gradients: Sequence[tf.Tensor], numbers: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        are_float32 = all(each.dtype == tf.float32 for each in gradients)
        if self._memory is None or not are_float32:
            return super().exchange(gradients, numbers)
        dtype = tf.float32 if self._format is None else self._format.dtype
        return self._memory.exchange(gradients, numbers, dtype)

    def with_compression(self, compression: str) -> Processes:
        made = HorovodProcesses(self._hvd, compression, has_gpus=self._has_gpus)
        if self._memory is not None:
            made.share(self._memory)
        return made

    def share(self, memory: SharedMemory) -> None:
        """Lets the gradients of steps travel by what all ranks share."""
        self._memory = memory
        self.transport = "shared memory"

    def average(self, variables: Sequence[keras.Variable]) -> None:
        def exchange(value, name):
            return self._hvd.allreduce(value, op=self._hvd.Average, name=name)

        wire.exchange_flat(variables, exchange, "average")

    def broadcast(
        self, variables: Sequence[keras.Variable], root: int = 0
    ) -> None:
        def exchange(value, name):
            return self._hvd.broadcast(value, root_rank=root, name=name)

        wire.exchange_flat(variables, exchange, "broadcast")

    def sum(self, values: np.ndarray) -> np.ndarray:
        return self._hvd.allreduce(
            tf.constant(values, tf.float64), op=self._hvd.Sum, name="sum"
        ).numpy()

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self._hvd.broadcast_object(value, root_rank=root)

    def gather_object(self, value: Any) -> list[Any]:
        return self._hvd.allgather_object(value)

    def barrier(self) -> None:
        # The TensorFlow binding exports no barrier of its own.
        self.sum(np.zeros([1]))

    @contextlib.contextmanager
    def timeline(self, path: str) -> Iterator[None]:
        self._hvd.start_timeline(path)
        try:
            yield
        finally:
            self._hvd.stop_timeline()


def start(
    *,
    compression: str = "none",
    transport: str = "auto",
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


def _require_sum(hvd: Any, compression: str, dtype: tf.DType) -> None:
    """Refuses a format that this build of Horovod has no sum of.

    The operation is built in a graph that never runs: TensorFlow holds it to
    the types it is registered with, and no rank waits for another.
    """
    try:
        with tf.Graph().as_default():
            hvd.allreduce(tf.zeros([1], dtype), op=hvd.Sum)
    except (TypeError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"--compression={compression} needs a Horovod that can sum"
            f" {dtype.name}, and the installed one cannot; choose"
            " --compression=fp16 or --compression=none."
        ) from error
