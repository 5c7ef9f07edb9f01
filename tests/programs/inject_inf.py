"""Trains in float16 with an inf in the loss of one rank at one step.

Prints one JSON object per rank: after every step the loss scale, a checksum of
the weights and the mean loss over the ranks.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet import distributed, optimizers, resnet
from hvd_imagenet.config import ModelConfig
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.trainer import Trainer

_STEPS = 5
_BAD_STEP = 2
_BAD_RANK = 1


def main():
    processes = distributed.start(compression="fp16")
    rank = processes.world.rank
    keras.utils.set_random_seed(0)
    model = resnet.build_model(
        ModelConfig(
            model="resnet10", image_size=32, num_classes=10, precision="float16"
        )
    )
    optimizer = keras.optimizers.LossScaleOptimizer(
        optimizers.MomentumSGD(0.01), initial_scale=1024.0
    )
    trainer = Trainer(model, optimizer, processes)
    images = np.random.default_rng(rank).integers(0, 256, (8, 32, 32, 3))
    records = []
    for step in range(_STEPS):
        weights = np.ones(8, np.float32)
        if step == _BAD_STEP and rank == _BAD_RANK:
            weights[0] = np.inf
        batch = Batch(
            tf.constant(images, tf.uint8),
            tf.range(8),
            tf.constant(weights),
            tf.range(8, dtype=tf.int64),
        )
        trainer.train_step(iter([batch]))
        records.append(
            {
                "scale": float(optimizer.dynamic_scale),
                "checksum": [
                    float(np.sum(v.numpy(), dtype=np.float64))
                    for v in model.trainable_variables
                ],
                "finite": all(
                    np.all(np.isfinite(v.numpy())) for v in trainer.state
                ),
            }
        )
    gathered = processes.gather_object(records)
    if processes.world.is_first:
        sys.stdout.write("RESULT " + json.dumps(gathered) + "\n")


if __name__ == "__main__":
    main()
