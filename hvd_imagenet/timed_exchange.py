"""How long an exchange of gradients takes, here and now."""

import time
from collections.abc import Sequence

import tensorflow as tf

from hvd_imagenet.processes import Processes


class TimedExchange:
    """Averages tensors as training does, in a compiled function.

    The first call traces it and makes connections, and so does one with other
    shapes.
    """

    def __init__(self, processes: Processes):
        @tf.function
        def exchange(tensors):
            means, _ = processes.exchange(tensors, tf.zeros([2]))
            # There when all of them are.
            return means, tf.add_n([tf.reshape(m, [-1])[0] for m in means])

        self._exchange = exchange

    def __call__(
        self, tensors: Sequence[tf.Tensor]
    ) -> tuple[float, list[tf.Tensor]]:
        """Exchanges once. A collective operation.

        Args:
            tensors: float32, of the same shapes on all processes.

        Returns:
            (seconds on this process, the means)
        """
        begun = time.perf_counter()
        means, all_are_there = self._exchange(tensors)
        float(all_are_there)
        return time.perf_counter() - begun, means
