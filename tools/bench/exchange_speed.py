#!/usr/bin/env python3
"""Compares exchanges between two processes of this host, in one run.

    .venv/bin/python tools/bench/exchange_speed.py \\
        --torch_python=TORCH_ENVIRONMENT/bin/python

Averages the gradients of ResNet-50 by `hvd_imagenet.benchmark
--mode=allreduce`, through shared memory and by Horovod, and beside them sums as
many numbers in one buffer by PyTorch's Gloo (torch_exchange.py). Each in turn,
as often as --repeats says. Prints medians in ms, and of the ratios of Gloo's
time to theirs within a repeat.
"""

import pathlib
import statistics
import sys
from collections.abc import Sequence

from absl import app, flags

import environments

_HERE = pathlib.Path(__file__).parent
_PROCESSES = 2
_FORMATS = {"float32": "float32", "float16": "fp16"}
_GLOO = "Gloo, one buffer, sum in place"

_FLAGS = flags.FLAGS
flags.DEFINE_string("torch_python", None, "A Python with PyTorch.")
flags.DEFINE_integer("repeats", 3, "Times that each is measured.", 1)
flags.DEFINE_integer("times", 20, "Exchanges each time.", 3)
flags.mark_flag_as_required("torch_python")


def main(argv: Sequence[str]) -> None:
    del argv
    took = {}
    for _ in range(_FLAGS.repeats):
        elements = 0
        for transport in ("auto", "horovod"):
            result = environments.result(
                _ours(transport), sys.executable, "exchanges"
            )
            for exchange in result["exchanges"]:
                what = exchange["what"]
                if not what.startswith("gradients"):
                    continue
                wire = _FORMATS[exchange["format"]]
                name = f"{what}, {wire}, {result['transport']}"
                took.setdefault(name, []).append(1e3 * exchange["seconds"])
                elements = exchange["gradient_bytes"] // 4
        seconds = environments.result(
            _gloo(elements), _FLAGS.torch_python, "seconds"
        )["seconds"]
        took.setdefault(_GLOO, []).append(1e3 * statistics.median(seconds))
        sys.stderr.write(
            f"{ {name: each[-1] for name, each in took.items()} }\n"
        )
    sys.stdout.write("| | ms | Gloo's time / this |\n|---|---|---|\n")
    for name, each in took.items():
        ratios = [a / b for a, b in zip(took[_GLOO], each, strict=True)]
        sys.stdout.write(
            f"| {name} | {statistics.median(each):.3g}"
            f" | {statistics.median(ratios):.2f} |\n"
        )


def _ours(transport: str) -> list[str]:
    return [
        *("horovodrun", "-np", str(_PROCESSES)),
        *("-H", f"localhost:{_PROCESSES}"),
        *(sys.executable, "-m", "hvd_imagenet.benchmark"),
        *("--mode=allreduce", "--largest_mib=1"),
        *(f"--transport={transport}", f"--steps={_FLAGS.times}"),
    ]


def _gloo(elements: int) -> list[str]:
    torchrun = pathlib.Path(_FLAGS.torch_python).parent / "torchrun"
    return [
        *(str(torchrun), f"--nproc-per-node={_PROCESSES}"),
        *(str(_HERE / "torch_exchange.py"), str(elements), str(_FLAGS.times)),
    ]


if __name__ == "__main__":
    app.run(main)
