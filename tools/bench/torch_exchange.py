#!/usr/bin/env python3
"""Gloo's own allreduce of one buffer, by PyTorch.

    torchrun --nproc-per-node=2 torch_exchange.py ELEMENTS TIMES

Sums a float32 tensor of so many elements in place, nothing else: no buffers are
filled, no mean is taken. Rank 0 prints one JSON object with the seconds of
each, of the slowest rank.
"""

import json
import sys
import time

import torch
from torch import distributed

_WARMUP = 3


def main(elements, times):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    buffer = torch.ones(elements)
    seconds = []
    for _ in range(_WARMUP + times):
        distributed.barrier()
        begun = time.perf_counter()
        distributed.all_reduce(buffer)
        seconds.append(time.perf_counter() - begun)
        buffer.fill_(1.0)
    slowest = torch.tensor(seconds[_WARMUP:])
    distributed.all_reduce(slowest, op=distributed.ReduceOp.MAX)
    if distributed.get_rank() == 0:
        print(json.dumps({"seconds": slowest.tolist()}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
