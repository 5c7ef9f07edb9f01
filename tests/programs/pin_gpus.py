"""Starts two ranks where TensorFlow would find two GPUs.

No GPU is needed: what TensorFlow is told of them is only noted. All else is as
it is, and so is TensorFlow's refusal to change settings after its start.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from hvd_imagenet import devices, distributed

_THREADS = 3


def main():
    pinned = []
    real = tf.config.list_physical_devices

    def find(kind=None):
        return ["gpu:0", "gpu:1"] if kind == "GPU" else real(kind)

    tf.config.list_physical_devices = find
    tf.config.set_visible_devices = lambda gpu, kind: pinned.append(gpu)
    tf.config.experimental.set_memory_growth = lambda gpu, grows: None
    devices.threads_per_process = lambda world: _THREADS
    processes = distributed.start()
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    sys.stdout.write(
        f"rank {processes.world.rank} has {pinned[0]} and {threads} threads\n"
    )


if __name__ == "__main__":
    main()
