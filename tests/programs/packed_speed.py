"""How much faster packed images are read than the JPEGs they were made of.

    taskset -c 0 python tests/programs/packed_speed.py DIRECTORY [REPEATS]

Makes 400 JPEGs of 500 x 375 pixels and 77 to 110 KB out of scikit-learn's two
photographs, packs them to a shorter side of 256 pixels, and reads the three
sets in turn as training batches of 224 pixels, with one thread. Prints a line
per set: images per second, and microseconds of processor time per image, which
other programs of the machine disturb less; both as medians over REPEATS
(default 7), and what they are of the original's in the same repeat.
"""

import json
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image
from sklearn import datasets

sys.path.insert(0, os.fspath(pathlib.Path(__file__).parent.parent))

import image_data
from hvd_imagenet import dataset, splits
from hvd_imagenet.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizationConfig,
)
from hvd_imagenet.packing import job
from hvd_imagenet.packing.options import PackOptions
from hvd_imagenet.plan import make_plan
from hvd_imagenet.world import World

_IMAGES = 400
_CLASSES = 10
_BATCH = 64
_BATCHES = 20
_BYTES = (77_000, 110_000)


def main() -> None:
    directory = pathlib.Path(sys.argv[1])
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    sets = {"original": directory / "original"}
    if not sets["original"].exists():
        records = [
            image_data.example(encoded, number % _CLASSES + 1)
            for number, encoded in enumerate(originals())
        ]
        image_data.write_shards(sets["original"], "train", [records])
    for encoding in ("jpeg", "raw"):
        sets[encoding] = directory / encoding
        job.pack(
            PackOptions(
                data_dir=os.fspath(sets["original"]),
                output_dir=os.fspath(sets[encoding]),
                split="train",
                num_classes=_CLASSES,
                encoding=encoding,
                processes=1,
            )
        )
    for facts in measure(sets, repeats):
        print(json.dumps(facts), flush=True)


def originals():
    """JPEGs as ImageNet has them."""
    photographs = [
        Image.fromarray(image) for image in datasets.load_sample_images().images
    ]
    random = np.random.default_rng(0)
    for number in range(_IMAGES):
        height = int(random.integers(240, 427))
        width = round(height * 4 / 3)
        left = int(random.integers(0, 640 - width + 1))
        top = int(random.integers(0, 427 - height + 1))
        image = photographs[number % 2].resize(
            (500, 375),
            Image.Resampling.BICUBIC,
            box=(left, top, left + width, top + height),
        )
        wanted = random.uniform(*_BYTES)
        yield min(
            (image_data.encode(image, quality=q) for q in range(80, 99)),
            key=lambda encoded: abs(len(encoded) - wanted),
        )


def batches(directory):
    """Endless enough."""
    config = Config(
        model=ModelConfig(num_classes=_CLASSES),
        data=DataConfig(data_dir=os.fspath(directory)),
        optimization=OptimizationConfig(
            epochs=10_000, warmup_epochs=0.0, batch_size_per_process=_BATCH
        ),
    )
    source = splits.open_split(
        Config(data=DataConfig(data_dir=os.fspath(directory), label_offset=1)),
        "train",
    )
    plan = make_plan(
        config,
        world_size=1,
        train_images=_IMAGES,
        validation_images=_IMAGES,
    )
    world = World(rank=0, size=1, local_rank=0, local_size=1)
    return source, dataset.training_batches(
        config, plan, source, world, threads=1
    )


def measure(sets, repeats):
    """A dictionary per set."""
    sources = {name: batches(directory) for name, directory in sets.items()}
    rates = {name: [] for name in sets}
    cpu = {name: [] for name in sets}
    for repeat in range(repeats + 1):
        for name, (_, stream) in sources.items():
            for _ in range(4):
                next(stream)  # What was prefetched before.
            start, used = time.perf_counter(), time.process_time()
            for _ in range(_BATCHES):
                next(stream)
            images = _BATCH * _BATCHES
            if repeat:  # The first one warms up.
                rates[name].append(images / (time.perf_counter() - start))
                cpu[name].append((time.process_time() - used) / images * 1e6)
            _settle()
    for name, (source, _) in sources.items():
        lengths = [len(source.read(i)[0]) for i in range(_IMAGES)]
        yield {
            "set": name,
            "record_kb": round(statistics.mean(lengths) / 1000, 1),
            "images_per_second": round(statistics.median(rates[name])),
            "times_the_original": _ratio(rates[name], rates["original"]),
            "cpu_us_per_image": round(statistics.median(cpu[name])),
            "times_the_original_by_cpu": _ratio(cpu["original"], cpu[name]),
        }


def _settle() -> None:
    """Waits until nothing is prefetched any more."""
    used = time.process_time()
    for _ in range(50):
        time.sleep(0.1)
        now = time.process_time()
        if now - used < 0.005:
            return
        used = now


def _ratio(these, those) -> float:
    pairs = zip(these, those, strict=True)
    return round(statistics.median(a / b for a, b in pairs), 2)


if __name__ == "__main__":
    main()
