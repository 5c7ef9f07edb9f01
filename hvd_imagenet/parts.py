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

from hvd_imagenet.world import World

# Gradients that travel together. Few enough for the first to be on their way
# while the backward pass goes on, enough not to wait for many answers.
_BUCKET_BYTES = 16 * 2**20

# What is sent: the transport need not know the type.
_BITS = tf.uint16


def pays(compression: str, world: World) -> bool:
    """Whether gradients on CPUs travel so, and not in an allreduce.

    Between hosts float16 does not: there the network is what is waited for, the
    slow sum hides behind it, and Gloo's alltoall and allgather do not fill both
    directions of a link. ResNet-50's gradients took 1,650 ms between two hosts
    at 500 Mbit/s, and in an allreduce 914. (Horovod has no sum of bfloat16 in
    any case.)
    """
    is_one_host = world.local_size == world.size
    return compression != "fp16" or is_one_host


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
            received = self.alltoall(self.pack(mine))
            all_means = self.allgather(self.mean(received))
            for number, mean in zip(
                bucket, self.unpack(all_means, mine), strict=True
            ):
                means[number] = mean
        return means

    def pack(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """[parts x ranks] uint16: the gradients, and zeros to fill up."""
        flat = [
            self._to_bits(tf.reshape(gradient, [-1])) for gradient in gradients
        ]
        length = sum(math.prod(gradient.shape) for gradient in gradients)
        flat.append(tf.zeros([-length % self.world_size], _BITS))
        return tf.concat(flat, axis=0)

    def mean(self, received: tf.Tensor) -> tf.Tensor:
        """The mean of what all ranks sent, by way of float32.

        Args:
            received: [ranks x part] uint16.

        Returns:
            [part] uint16.
        """
        by_rank = tf.reshape(received, [self.world_size, -1])
        total = tf.reduce_sum(self._from_bits(by_rank, tf.float32), axis=0)
        return self._to_bits(total / self.world_size)

    def unpack(
        self, flat: tf.Tensor, like: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """What `pack` packed, in the shapes and types of `like`."""
        sizes = [math.prod(gradient.shape) for gradient in like]
        sizes.append(-sum(sizes) % self.world_size)
        parts = tf.split(flat, sizes)[:-1]
        return [
            tf.reshape(self._from_bits(part, gradient.dtype), gradient.shape)
            for part, gradient in zip(parts, like, strict=True)
        ]

    def _to_bits(self, values: tf.Tensor) -> tf.Tensor:
        return tf.bitcast(tf.cast(values, self.dtype), _BITS)

    def _from_bits(self, bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.cast(tf.bitcast(bits, self.dtype), dtype)


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
