"""PyTorch on the CPU, doing the training step of ours.

    python torch_train.py PRECISION THREADS STEPS
    torchrun --nproc-per-node=2 torch_train.py PRECISION THREADS STEPS

ResNet-50 v1.5, batches of 32 made-up uint8 images of 224 pixels, normalised in
the step, cross-entropy, momentum SGD with weight decay; eager, channels_last;
PRECISION is float32, or bfloat16 by autocast. Under torchrun
DistributedDataParallel over Gloo. Prints one JSON object with the times of the
steps.
"""

import contextlib
import json
import os
import statistics
import sys
import time

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

_BATCH = 32
_CLASSES = 1000
_WARMUP_STEPS = 2
_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
_MEAN = (123.675, 116.28, 103.53)
_STDDEV = (58.395, 57.12, 57.375)


class _Bottleneck(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        after = 4 * channels
        self.body = nn.Sequential(
            nn.Conv2d(before, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False),
                nn.BatchNorm2d(after),
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images):
        return self.relu(self.body(images) + self.shortcut(images))


def _resnet50():
    layers = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    before = 64
    for number, (channels, blocks) in enumerate(_STAGES):
        for block in range(blocks):
            stride = 2 if number and not block else 1
            layers.append(_Bottleneck(before, channels, stride))
            before = 4 * channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, _CLASSES)]
    return nn.Sequential(*layers, *head)


def main(precision, threads, steps):
    """Trains and prints."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    is_launched = "RANK" in os.environ
    model = _resnet50().to(memory_format=torch.channels_last)
    if is_launched:
        distributed.init_process_group("gloo")
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
    )
    images = torch.randint(0, 256, (_BATCH, 224, 224, 3), dtype=torch.uint8)
    labels = torch.randint(0, _CLASSES, (_BATCH,))
    mean, stddev = (torch.tensor(c).view(1, 3, 1, 1) for c in (_MEAN, _STDDEV))

    def step():
        # Of uint8 in NHWC this is channels_last already.
        normalised = (images.permute(0, 3, 1, 2).float() - mean) / stddev
        reduced = contextlib.nullcontext()
        if precision == "bfloat16":
            reduced = torch.autocast("cpu", torch.bfloat16)
        with reduced:
            loss = nn.functional.cross_entropy(model(normalised), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    seconds = []
    for _ in range(_WARMUP_STEPS + steps):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    world_size = distributed.get_world_size() if is_launched else 1
    median = statistics.median(seconds[_WARMUP_STEPS:])
    if not is_launched or distributed.get_rank() == 0:
        print(
            json.dumps(
                {
                    "images_per_second": world_size * _BATCH / median,
                    "seconds": seconds[_WARMUP_STEPS:],
                    "processes": world_size,
                    "torch": torch.__version__,
                }
            )
        )
    if is_launched:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
