"""Times steps in which sleep stands for compute and the exchange is real.

    python timed_exchange.py SECONDS STEPS COMPRESSION

The gradients are ResNet-50's: real tensors, made in the order and at the times
of a backward pass through its layers, and averaged as the training does it.
SECONDS is what a step computes for, COMPRESSION the format of gradients. Sleep
takes no processor from the other hosts of this machine, as compute on a host of
its own would not.

Rank 0 prints one JSON object behind RESULT, with the median time of a step.
"""

import json
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from hvd_imagenet import distributed, resnet_layers
from hvd_imagenet.scaling import backward as backward_lib

_UNTIMED_STEPS = 2


def main(compute_seconds: float, steps: int, compression: str) -> None:
    processes = distributed.start(compression=compression)
    rank, size = processes.world.rank, processes.world.size
    layers = resnet_layers.layers("resnet50", num_classes=1000, image_size=224)
    backward = backward_lib.of_layers(layers)
    backward_seconds = compute_seconds * backward.share
    # Every rank has other numbers.
    gradients = [
        tf.constant(np.full(n, rank, np.float32)) for n in backward.elements
    ]
    begun = 0.0

    def begin():
        nonlocal begun
        time.sleep(compute_seconds - backward_seconds)
        begun = time.perf_counter()
        return np.int32(0)

    def wait_until(share):
        # Until a point in time: what the sleeps are late by must not add up.
        late = begun + share * backward_seconds - time.perf_counter()
        time.sleep(max(0.0, late))
        return np.int32(0)

    @tf.function
    def step():
        done = tf.numpy_function(begin, [], tf.int32)
        over, made = 0.0, []
        for gradient, share in zip(gradients, backward.ready, strict=True):
            if share > over:
                with tf.control_dependencies([done]):
                    done = tf.numpy_function(
                        wait_until, [tf.constant(share, tf.float64)], tf.int32
                    )
                over = share
            with tf.control_dependencies([done]):
                made.append(tf.identity(gradient))
        # In the order of the variables, the last of which is made first.
        means = processes.average_gradients(made[::-1])
        return tf.stack([mean[-1] for mean in means])

    seconds = []
    for _ in range(_UNTIMED_STEPS + steps):
        started = time.perf_counter()
        means = step().numpy()
        seconds.append(time.perf_counter() - started)
    np.testing.assert_allclose(means, (size - 1) / 2)
    if processes.world.is_first:
        result = {
            "processes": size,
            "step_seconds": statistics.median(seconds[_UNTIMED_STEPS:]),
        }
        sys.stdout.write(f"RESULT {json.dumps(result)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
