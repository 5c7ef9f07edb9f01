"""Averages of half-precision gradients whose sums are float32.

Libraries that exchange through the host's memory sum half-precision numbers one
at a time, which takes several times as long as to exchange them in float32. So
the sum is done here: every rank sends each other rank a part of its gradients
(alltoall), has the mean of its own part, and sends that to all (allgather).
Ranks send as many bytes as in a ring allreduce (Patarasuk and Yuan 2009,
section 4), in half precision, and what they sum is rounded once, not at every
hop.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

# Gradients that travel together. Few enough for the first to be on their way
# while the backward pass goes on, enough not to wait for many answers.
_BUCKET_BYTES = 16 * 2**20

# What is sent may be of a type that the transport does not know.
_BITS = tf.uint16


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartExchange:
    """How gradients travel.

    Attributes:
        dtype: what is sent, of 16 bits.
        world_size: number of ranks.
        alltoall: the r-th of `world_size` equal parts of what each rank gives,
            one behind the other, to rank r.
        allgather: what the ranks give, one behind the other, to all.
    """

    dtype: tf.DType
    world_size: int
    alltoall: Callable[[tf.Tensor], tf.Tensor]
    allgather: Callable[[tf.Tensor], tf.Tensor]

    def average(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Means over ranks, of the same shapes and types."""
        means = [None] * len(gradients)
        for bucket in buckets([gradient.shape for gradient in gradients]):
            mine = [gradients[number] for number in bucket]
            received = self._send(self.alltoall, self.pack(mine))
            all_means = self._send(self.allgather, self.mean(received))
            for number, mean in zip(
                bucket, self.unpack(all_means, mine), strict=True
            ):
                means[number] = mean
        return means

    def pack(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """[parts x ranks] of `dtype`: the gradients, and zeros to fill up."""
        flat = [
            tf.cast(tf.reshape(gradient, [-1]), self.dtype)
            for gradient in gradients
        ]
        length = sum(math.prod(gradient.shape) for gradient in gradients)
        flat.append(tf.zeros([-length % self.world_size], self.dtype))
        return tf.concat(flat, axis=0)

    def mean(self, received: tf.Tensor) -> tf.Tensor:
        """The mean of what all ranks sent, of `dtype` by way of float32.

        Args:
            received: [ranks x part] of `dtype`.
        """
        by_rank = tf.reshape(received, [self.world_size, -1])
        total = tf.reduce_sum(tf.cast(by_rank, tf.float32), axis=0)
        return tf.cast(total / self.world_size, self.dtype)

    def unpack(
        self, flat: tf.Tensor, like: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """What `pack` packed, in the shapes and types of `like`."""
        sizes = [math.prod(gradient.shape) for gradient in like]
        sizes.append(-sum(sizes) % self.world_size)
        parts = tf.split(flat, sizes)[:-1]
        return [
            tf.cast(tf.reshape(part, gradient.shape), gradient.dtype)
            for part, gradient in zip(parts, like, strict=True)
        ]

    def _send(
        self, transport: Callable[[tf.Tensor], tf.Tensor], values: tf.Tensor
    ) -> tf.Tensor:
        bits = transport(tf.bitcast(values, _BITS))
        return tf.bitcast(bits, self.dtype)


def buckets(shapes: Sequence[tf.TensorShape]) -> Iterator[list[int]]:
    """Numbers of the gradients that travel together.

    The last come first, as the backward pass makes them first.
    """
    bucket, length = [], 0
    for number in reversed(range(len(shapes))):
        bucket.append(number)
        length += math.prod(shapes[number]) * _BITS.size
        if length >= _BUCKET_BYTES:
            yield bucket
            bucket, length = [], 0
    if bucket:
        yield bucket
