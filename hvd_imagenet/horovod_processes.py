"""What processes do together by Horovod, or in memory that they share.

Horovod's own Keras API does not work with Keras 3 (its optimizer overrides
methods that Keras 3 never calls), so everything here stands on its tensor
operations.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet import parts, wire
from hvd_imagenet.processes import Processes
from hvd_imagenet.shared_memory import SharedMemory
from hvd_imagenet.world import World


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
