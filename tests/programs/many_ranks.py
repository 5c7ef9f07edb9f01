"""Trains a tiny network on 32 micro-batches a step, however many ranks.

Rank 0 prints one JSON list behind RESULT: of every rank where it runs, its
weights at the end and the loss of every step.
"""

import json
import os
import socket
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet import distributed, optimizers
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.trainer import Trainer

_MICRO_BATCHES = 32
_IMAGES = 4
_STEPS = 5


def main():
    processes = distributed.start()
    world = processes.world
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    trainer = Trainer(
        model,
        optimizers.MomentumSGD(0.1),
        processes,
    )
    losses = []
    for step in range(_STEPS):
        numbers = range(world.rank, _MICRO_BATCHES, world.size)
        trainer.train_step(
            iter([_batch(step, number) for number in numbers]), len(numbers)
        )
        losses.append(float(trainer.take_train_totals().means()["loss"]))
    record = {
        "host": socket.gethostname(),
        "local_rank": world.local_rank,
        "local_size": world.local_size,
        "losses": losses,
        "weights": model.layers[-1].kernel.numpy()[:3].ravel().tolist(),
    }
    gathered = processes.gather_object(record)
    if world.is_first:
        text = f"RESULT {json.dumps(gathered)}\n"
        # In one write, as mpirun splits lines that come in several.
        os.write(sys.stdout.fileno(), text.encode())


def _batch(step, number):
    random = np.random.default_rng([step, number])
    labels = random.integers(0, 10, _IMAGES)
    images = random.integers(0, 156, (_IMAGES, 8, 8, 3)) + 10 * np.reshape(
        labels, [-1, 1, 1, 1]
    )
    return Batch(
        tf.constant(images, tf.uint8),
        tf.constant(labels, tf.int32),
        tf.ones([_IMAGES]),
        tf.range(_IMAGES, dtype=tf.int64),
    )


if __name__ == "__main__":
    main()
