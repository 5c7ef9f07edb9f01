#!/usr/bin/env python3
"""Compares training steps with others' on the same cores and in one run.

    .venv/bin/python tools/bench/train_speed.py \\
        --torch_python=TORCH_ENVIRONMENT/bin/python

ResNet-50, 224 pixels, batches of 32 per process; float32 and bfloat16; one
process with all threads, and two processes that share them (ours by horovodrun,
PyTorch's by DistributedDataParallel over Gloo). Ours is
`python -m hvd_imagenet.benchmark --mode=train`, with another TensorFlow for
every --other_python, PyTorch's torch_train.py beside this. Each contender in
turn, as often as --repeats says. Prints a table of medians, and of ratios
within a repeat.
"""

import pathlib
import statistics
import sys
from collections.abc import Sequence

from absl import app, flags

import environments

_HERE = pathlib.Path(__file__).parent

_FLAGS = flags.FLAGS
flags.DEFINE_string(
    "torch_python", None, "A Python with PyTorch. Default: none."
)
flags.DEFINE_integer("repeats", 3, "Times that each is measured.", 1)
flags.DEFINE_integer("threads", 2, "Threads, of all processes together.", 2)
flags.DEFINE_integer("steps", 8, "Steps that are measured.", 2)
flags.DEFINE_list("precisions", ["float32", "bfloat16"], "What to compare.")
flags.DEFINE_list("processes", ["1", "2"], "How many to compare with.")


def main(argv: Sequence[str]) -> None:
    del argv
    pythons = environments.pythons()
    first, *others = [*pythons, *(["PyTorch"] if _FLAGS.torch_python else [])]
    rates = {}
    for _ in range(_FLAGS.repeats):
        for precision in _FLAGS.precisions:
            for processes in map(int, _FLAGS.processes):
                name = f"{precision}, {processes} x"
                name += f" {_FLAGS.threads // processes} threads"
                contenders = {
                    version: (_ours(python, precision, processes), python)
                    for version, python in pythons.items()
                }
                if _FLAGS.torch_python:
                    command = _torch(precision, processes)
                    contenders["PyTorch"] = (command, _FLAGS.torch_python)
                for contender, (command, python) in contenders.items():
                    key = "images_per_second"
                    rate = environments.result(command, python, key)[key]
                    rates.setdefault(name, {}).setdefault(contender, [])
                    rates[name][contender].append(rate)
                    sys.stderr.write(f"{name}: {contender} {rate:.3f}\n")
    titles = [first, *(t for o in others for t in (o, f"{first} / {o}"))]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for name, by_contender in rates.items():
        ours = by_contender[first]
        cells = [ours]
        for other in others:
            theirs = by_contender[other]
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            cells += [theirs, ratios]
        medians = [f"{statistics.median(each):.2f}" for each in cells]
        lines.append(f"| {name} | {' | '.join(medians)} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _ours(python: str, precision: str, processes: int) -> list[str]:
    launcher = []
    if processes > 1:
        hosts = f"localhost:{processes}"
        launcher = ["horovodrun", "-np", str(processes), "-H", hosts]
    return [
        *launcher,
        *(python, "-m", "hvd_imagenet.benchmark", "--mode=train"),
        *("--data_format=synthetic", f"--precision={precision}"),
        *(f"--steps={_FLAGS.steps}", "--warmup_steps=2"),
    ]


def _torch(precision: str, processes: int) -> list[str]:
    python = _FLAGS.torch_python
    if processes == 1:
        launcher = [python]
    else:
        torchrun = str(pathlib.Path(python).parent / "torchrun")
        launcher = [torchrun, f"--nproc-per-node={processes}"]
    threads = _FLAGS.threads // processes
    return [
        *launcher,
        *(str(_HERE / "torch_train.py"), precision),
        *(str(threads), str(_FLAGS.steps)),
    ]


if __name__ == "__main__":
    app.run(main)
