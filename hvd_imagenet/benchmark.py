"""Measures how fast a run is, or a part of it, alone or under horovodrun.

    python -m hvd_imagenet.benchmark --data_dir=DATA \\
        --flagfile=flags/goyal2017.flags

    python -m hvd_imagenet.benchmark --mode=scaling --hosts=host1:8,host2:8 \\
        --report_dir=REPORT --flagfile=flags/goyal2017.flags

Takes the flags of hvd_imagenet.train; --mode says what is measured. Standard
output gets one JSON object, standard error a table. Nothing is trained.
"""

import json
import os
import sys
from typing import Any

from hvd_imagenet import devices, program
from hvd_imagenet.cluster import foreground
from hvd_imagenet.cluster.finding import table
from hvd_imagenet.cluster.options import HostOptions
from hvd_imagenet.config import Config
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.world import launched_local_size


def main(
    config: Config, options: BenchmarkOptions, host_options: HostOptions
) -> int:
    """Measures and prints; returns the exit status."""
    # TensorFlow takes seconds to start: not for --help.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        _require_no_hosts(options, host_options)
        if options.host_slots is not None:
            devices.limit_cores(
                launched_local_size(os.environ) or 1, options.host_slots
            )
        result = _measure(config, options, host_options)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return program.INTERRUPTED
    except foreground.Stopped as stopped:
        sys.stderr.write("interrupted; the report has the worlds before.\n")
        return 128 + stopped.signal
    if result is not None:
        sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _measure(
    config: Config, options: BenchmarkOptions, host_options: HostOptions
) -> dict[str, Any] | None:
    """What the mode asks for; None where another process prints it."""
    if options.mode == "input":
        from hvd_imagenet.measuring import input_speed

        return input_speed.measure(options, config)
    if options.mode == "allreduce":
        from hvd_imagenet.measuring import exchange_speed

        result = exchange_speed.measure(options, config)
        rows = result and exchange_speed.table(result)
    elif options.mode == "scaling":
        from hvd_imagenet.measuring import scaling_report, scaling_runs

        result = scaling_runs.measure(options, host_options, config)
        rows = scaling_report.table(result)
    else:
        from hvd_imagenet.measuring import training_report, training_speed

        result = training_speed.measure(options, config)
        rows = result and training_report.table(result)
    if rows:
        sys.stderr.write(table(rows))
    return result


def _require_no_hosts(
    options: BenchmarkOptions, host_options: HostOptions
) -> None:
    """Refuses to measure one process where hosts are named.

    Raises:
        ValueError: says how to start the others.
    """
    if options.mode != "scaling" and host_options != HostOptions():
        raise ValueError(
            "flags about hosts are for --mode=scaling; start"
            f" --mode={options.mode} with horovodrun -np and -H, or alone"
            " without them."
        )


def run() -> None:
    """Parses the command line and runs the program."""
    program.run(main, BenchmarkOptions, HostOptions)


if __name__ == "__main__":
    run()
