"""Measures how fast a run is, or a part of it, alone or under horovodrun.

    python -m hvd_imagenet.benchmark --data_dir=DATA \\
        --flagfile=flags/goyal2017.flags

    python -m hvd_imagenet.benchmark --mode=scaling --hosts=host1:8,host2:8 \\
        --report_dir=REPORT --flagfile=flags/goyal2017.flags

Takes the flags of hvd_imagenet.train; --mode says what is measured. Standard
output gets one JSON object, standard error a table. Nothing is trained.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import app
from absl import flags as absl_flags

from hvd_imagenet import devices, flags
from hvd_imagenet.cluster import foreground
from hvd_imagenet.cluster.finding import table
from hvd_imagenet.cluster.options import HostOptions
from hvd_imagenet.config import Config
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.world import launched_local_size

_INTERRUPTED = 130  # As shells report a program that SIGINT ended.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    options: BenchmarkOptions
    host_options: HostOptions
    config: Config


def main(request: Request) -> int:
    """Measures and prints; returns the exit status."""
    # TensorFlow takes seconds to start: not for --help.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if request.options.host_slots is not None:
            devices.limit_cores(
                launched_local_size(os.environ) or 1, request.options.host_slots
            )
        result = _measure(request)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except foreground.Stopped as stopped:
        sys.stderr.write("interrupted; the report has the worlds before.\n")
        return 128 + stopped.signal
    if result is not None:
        sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _measure(request: Request) -> dict[str, Any] | None:
    """What the mode asks for; None where another process prints it."""
    options, config = request.options, request.config
    if options.mode == "input":
        from hvd_imagenet.measuring import input_speed

        return input_speed.measure(options, config)
    if options.mode == "allreduce":
        from hvd_imagenet.measuring import exchange_speed

        result = exchange_speed.measure(options, config)
        rows = result and exchange_speed.table(result)
    elif options.mode == "scaling":
        from hvd_imagenet.measuring import scaling_report, scaling_runs

        result = scaling_runs.measure(options, request.host_options, config)
        rows = scaling_report.table(result)
    else:
        from hvd_imagenet.measuring import training_report, training_speed

        result = training_speed.measure(options, config)
        rows = result and training_report.table(result)
    if rows:
        sys.stderr.write(table(rows))
    return result


def parse(argv: Sequence[str]) -> Request:
    """What a command line asks for.

    Raises:
        absl.flags.Error: it cannot be understood.
    """
    options = flags.parse_group(BenchmarkOptions, argv)
    host_options = flags.parse_group(HostOptions, argv)
    if options.mode != "scaling" and host_options != HostOptions():
        raise absl_flags.Error(
            "flags about hosts are for --mode=scaling; start"
            f" --mode={options.mode} with horovodrun -np and -H, or alone"
            " without them."
        )
    return Request(
        options=options, host_options=host_options, config=flags.parse(argv)
    )


def run() -> None:
    """Parses the command line and runs the program."""
    flags.define_group(BenchmarkOptions)
    flags.define_group(HostOptions)
    flags.define()
    app.run(main, flags_parser=lambda argv: flags.parse_or_exit(argv, parse))


if __name__ == "__main__":
    run()
