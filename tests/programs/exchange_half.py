"""Averages gradients in half precision, and asks for a sum there is not.

Prints one JSON object per rank: the message of the refusal, what it sent, and
the means.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from hvd_imagenet import distributed


def gradients(rank):
    """What the rank has to give, by name."""
    spread = np.random.default_rng(rank).normal(size=1000)
    large = [60000.0, -60000.0, 65504.0]
    return {
        "large": np.float32(large),
        "spread": np.float32(spread * np.logspace(-6, 3, 1000)),
        "infinite": np.float32([np.inf, 1.0] if rank == 1 else [1.0, 1.0]),
        "undefined": np.float32([np.nan, 1.0] if rank == 0 else [1.0, 1.0]),
    }


def main():
    record = {}
    try:
        distributed.start(compression="bf16")
    except ValueError as error:
        record["refusal"] = str(error)
    processes = distributed.start(compression="fp16")
    average = tf.function(processes.average_gradient)
    given = gradients(processes.world.rank)
    record["sent"] = [float(value) for value in given["spread"]]
    for name, gradient in given.items():
        mean = average(tf.constant(gradient))
        record[name] = [float(value) for value in mean]
        record["dtype"] = mean.dtype.name
    gathered = processes.gather_object(record)
    if processes.world.is_first:
        sys.stdout.write("RESULT " + json.dumps(gathered) + "\n")


if __name__ == "__main__":
    main()
