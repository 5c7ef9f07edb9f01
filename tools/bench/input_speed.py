#!/usr/bin/env python3
"""Compares input pipelines on the same images, cores and run.

    .venv/bin/python tools/bench/input_speed.py DIRECTORY \\
        --dali_python=DALI_ENVIRONMENT/bin/python

Makes JPEGs of 500 x 375 pixels and 77 to 110 KB out of scikit-learn's two
photographs, and packs them with tools/pack. Then each contender in turn, as
often as --repeats says, in a process of its own on the same --cores: ours by
`python -m hvd_imagenet.benchmark --mode=input`, DALI by dali_input.py beside
this, if --dali_python names a Python that has it (requirements-dali.txt), ours
with another TensorFlow for every --other_python. Prints a table of medians, and
of ratios within a repeat.
"""

import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from absl import app, flags
from PIL import Image
from sklearn import datasets

import environments

_HERE = pathlib.Path(__file__).parent
_IMAGES = 512
_CLASSES = 10
_BYTES = (77_000, 110_000)
_SECONDS = 600

_FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dali_python", None, "A Python with DALI. Default: ours only."
)
flags.DEFINE_integer("repeats", 5, "Times that each is measured.", 1)
flags.DEFINE_integer("cores", 1, "Cores and threads that each gets.", 1)
flags.DEFINE_integer("steps", 40, "Batches of 64 images that are measured.", 1)


def main(argv: Sequence[str]) -> None:
    (folder,) = map(pathlib.Path, argv[1:])
    pythons = environments.pythons()
    contenders = {
        name if python == sys.executable else f"{name}, {version}": _ours(
            python, folder / name
        )
        for name in ("original", "jpeg", "raw")
        for version, python in pythons.items()
    }
    if _FLAGS.dali_python:
        contenders["DALI"] = [
            *(_FLAGS.dali_python, str(_HERE / "dali_input.py")),
            *(str(folder / "original"), str(_FLAGS.cores), str(_FLAGS.steps)),
        ]
    _make(folder)
    measured = {name: [] for name in contenders}
    for _ in range(_FLAGS.repeats):
        for name, command in contenders.items():
            measured[name].append(_run(command))
            sys.stderr.write(f"{name}: {measured[name][-1]}\n")
    rates = {
        name: [result["images_per_second"] for result in results]
        for name, results in measured.items()
    }
    against = "DALI" if "DALI" in rates else "original"
    lines = [f"| | images/s | x {against} |", "|---|---|---|"]
    for name, of_name in rates.items():
        ratios = (a / b for a, b in zip(of_name, rates[against], strict=True))
        lines.append(
            f"| {name} | {statistics.median(of_name):,.0f} |"
            f" {statistics.median(ratios):.2f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


def _ours(python: str, data_dir: pathlib.Path) -> list[str]:
    return [
        *(python, "-m", "hvd_imagenet.benchmark", "--mode=input"),
        *(f"--data_dir={data_dir}", f"--num_classes={_CLASSES}"),
        *("--label_offset=1", "--batch_size_per_process=64", "--epochs=90"),
        *("--warmup_epochs=0", f"--steps={_FLAGS.steps}"),
        f"--input_threads={_FLAGS.cores}",
    ]


def _run(command: Sequence[str]) -> dict[str, float]:
    """What a contender prints last, run on the first cores."""
    cores = sorted(os.sched_getaffinity(0))[: _FLAGS.cores]
    finished = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cores)), *command],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if finished.returncode:
        raise RuntimeError(f"{command} failed: {finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def _make(folder: pathlib.Path) -> None:
    """The sets that are not there yet."""
    import tensorflow as tf

    original = folder / "original"
    if not original.exists():
        original.mkdir(parents=True)
        for split, count in (("train", _IMAGES), ("validation", 8)):
            path = str(original / f"{split}-00000-of-00001")
            with tf.io.TFRecordWriter(path) as writer:
                for number, encoded in enumerate(_photographs(count)):
                    writer.write(_example(encoded, number % _CLASSES + 1))
    for encoding in ("jpeg", "raw"):
        if not (folder / encoding).exists():
            subprocess.run(
                [
                    *(sys.executable, str(_HERE.parent / "pack")),
                    *(f"--data_dir={original}", f"--encoding={encoding}"),
                    f"--output_dir={folder / encoding}",
                    f"--num_classes={_CLASSES}",
                ],
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=_SECONDS,
            )


def _photographs(count: int) -> Iterator[bytes]:
    """JPEGs as ImageNet has them: parts of photographs."""
    photographs = [
        Image.fromarray(image) for image in datasets.load_sample_images().images
    ]
    random = np.random.default_rng(0)
    for number in range(count):
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
            (_jpeg(image, quality) for quality in range(80, 99, 2)),
            key=lambda encoded: abs(len(encoded) - wanted),
        )


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _example(encoded: bytes, label: int) -> bytes:
    import tensorflow as tf

    features = {
        "image/encoded": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[encoded])
        ),
        "image/class/label": tf.train.Feature(
            int64_list=tf.train.Int64List(value=[label])
        ),
    }
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()


if __name__ == "__main__":
    app.run(main)
