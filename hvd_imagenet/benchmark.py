"""Measures how fast a part of a run is, alone or under horovodrun.

    python -m hvd_imagenet.benchmark --mode=input --data_dir=DATA \\
        --flagfile=flags/goyal2017.flags

Takes the flags of hvd_imagenet.train. Standard output gets one JSON object:
rates are of all processes together, shares the mean over processes, cores those
that the processes may use. Nothing is trained.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import app

from hvd_imagenet import flags
from hvd_imagenet.config import Config
from hvd_imagenet.measuring.options import BenchmarkOptions

_INTERRUPTED = 130  # As shells report a program that SIGINT ended.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    options: BenchmarkOptions
    config: Config


def main(request: Request) -> int:
    """Measures and prints; returns the exit status."""
    # TensorFlow takes seconds to start: not for --help.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        result = _measure(request.options, request.config)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    if result is not None:
        sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _measure(
    options: BenchmarkOptions, config: Config
) -> dict[str, Any] | None:
    """What the mode asks for; None where another process prints it."""
    from hvd_imagenet.measuring import input_speed

    return input_speed.measure(options, config)


def parse(argv: Sequence[str]) -> Request:
    """What a command line asks for.

    Raises:
        absl.flags.Error: it cannot be understood.
    """
    return Request(
        options=flags.parse_group(BenchmarkOptions, argv),
        config=flags.parse(argv),
    )


def run() -> None:
    """Parses the command line and runs the program."""
    flags.define_group(BenchmarkOptions)
    flags.define()
    app.run(main, flags_parser=lambda argv: flags.parse_or_exit(argv, parse))


if __name__ == "__main__":
    run()
