"""Prints the peak of memory after steps of 2 and then of 16 micro-batches.

One JSON object: bytes of the network's weights, and of each peak.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from hvd_imagenet import distributed, optimizers
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.trainer import Trainer

_IMAGES = 4


def peak_bytes():
    # Not getrusage, which starts from what the parent process had.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main():
    # Nearly all weights and no activations.
    model = keras.Sequential(
        [
            keras.Input([4, 4, 3]),
            keras.layers.Flatten(),
            keras.layers.Dense(2048),
            keras.layers.Dense(4096),
            keras.layers.Dense(2048),
            keras.layers.Dense(10),
        ]
    )
    trainer = Trainer(
        model, optimizers.MomentumSGD(1e-4), distributed.Processes()
    )
    batch = Batch(
        tf.zeros([_IMAGES, 4, 4, 3], tf.uint8),
        tf.zeros([_IMAGES], tf.int32),
        tf.ones([_IMAGES]),
        tf.range(_IMAGES, dtype=tf.int64),
    )
    peaks = []
    for accumulation_steps in (2, 16):
        for _ in range(3):
            batches = iter([batch] * accumulation_steps)
            trainer.train_step(batches, accumulation_steps)
        peaks.append(peak_bytes())
    weights = sum(v.value.shape.num_elements() * 4 for v in model.variables)
    sys.stdout.write(
        "RESULT " + json.dumps({"weights": weights, "peaks": peaks}) + "\n"
    )


if __name__ == "__main__":
    main()
