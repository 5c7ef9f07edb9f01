"""What processes that train together can do, and a world of one."""

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.world import World


class Processes:
    """A world of one process: nothing to exchange.

    Every method that exchanges is collective: all ranks must call it.

    Attributes:
        world: the place of this process.
        transport: what the gradients of a step travel by: "none", "Horovod" or
            "shared memory".
    """

    transport = "none"

    def __init__(self, world: World | None = None):
        self.world = world or World()

    def average_gradients(
        self, gradients: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """Means over ranks of gradients, inside a `tf.function`.

        Args:
            gradients: of this rank, of the same shapes on all.
        """
        return list(gradients)

    def sum_in_graph(self, values: tf.Tensor) -> tf.Tensor:
        """Sum over ranks of a few numbers, inside a `tf.function`.

        Args:
            values: of this rank, float32.
        """
        return values

    def exchange(
        self, gradients: Sequence[tf.Tensor], numbers: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """What a train step exchanges, once in a `tf.function`.

        As `average_gradients` and `sum_in_graph`, by the fastest way there is.

        Args:
            gradients: of this rank, of the same shapes on all.
            numbers: of this rank, float32, at most 16.

        Returns:
            (means of the gradients, sums of the numbers)
        """
        return self.average_gradients(gradients), self.sum_in_graph(numbers)

    def with_compression(self, compression: str) -> "Processes":
        """The same ranks, with gradients in another format on the wire.

        Args:
            compression: "none", "fp16" or "bf16".

        Raises:
            ValueError: Horovod cannot sum that format.
        """
        return self

    def average(self, variables: Sequence[keras.Variable]) -> None:
        """Sets every variable to its mean over ranks.

        Args:
            variables: of the same types and shapes on all ranks.
        """

    def broadcast(
        self, variables: Sequence[keras.Variable], root: int = 0
    ) -> None:
        """Sets every variable to its value on one rank.

        Args:
            variables: of the same types and shapes on all ranks.
            root: that rank.
        """

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum over ranks of an array.

        Args:
            values: of this rank, float64, of the same shape on all.
        """
        return values

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """The value that one rank passed.

        Args:
            value: that can be pickled.
            root: that rank.
        """
        return value

    def gather_object(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order.

        Args:
            value: of this rank, that can be pickled.
        """
        return [value]

    def barrier(self) -> None:
        """Returns when all ranks have called it."""

    @contextlib.contextmanager
    def timeline(self, path: str) -> Iterator[None]:
        """Rank 0 writes what is exchanged meanwhile, as Chrome's traces.

        All ranks must call it. Needs `start(timeline=True)`.

        Args:
            path: of the file.
        """
        yield

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Ranks with other flags or other data would wait for each other.

        Args:
            facts: value by name, of this rank.

        Raises:
            ValueError: a fact is another one on rank 0.
        """
        first = self.broadcast_object(dict(facts))
        for name, value in facts.items():
            if value != first[name]:
                raise ValueError(
                    f"{name} is {value} on rank {self.world.rank}"
                    f" ({socket.gethostname()}) and {first[name]} on rank 0;"
                    " give all hosts the same flags and data."
                )
