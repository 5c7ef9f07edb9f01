"""Averages gradients in half precision.

Prints one JSON object per rank: what it sent, and the means by format.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from hvd_imagenet import distributed
from hvd_imagenet.horovod_processes import HorovodProcesses


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
    processes = distributed.start(compression="fp16")
    given = gradients(processes.world.rank)
    record["sent"] = [float(value) for value in given["spread"]]
    # As on GPUs, the last: Horovod's own sums.
    on_gpus = HorovodProcesses(hvd, "fp16", has_gpus=True)
    formats = {
        "fp16": processes,
        "bf16": processes.with_compression("bf16"),
        "fp16 on GPUs": on_gpus,
    }
    for compression, ranks in formats.items():
        means = tf.function(ranks.average_gradients)(
            [tf.constant(gradient) for gradient in given.values()]
        )
        record[compression] = {
            name: [float(value) for value in mean]
            for name, mean in zip(given, means, strict=True)
        }
        record["dtypes"] = [mean.dtype.name for mean in means]
    try:
        on_gpus.with_compression("bf16")
    except ValueError as error:
        record["refusal"] = str(error)
    gathered = processes.gather_object(record)
    if processes.world.is_first:
        sys.stdout.write("RESULT " + json.dumps(gathered) + "\n")


if __name__ == "__main__":
    main()
