"""Examines one host, or under horovodrun a whole job, before it costs time.

    horovodrun -np 16 -H host1:8,host2:8 python -m hvd_imagenet.doctor \\
        --flagfile=flags/goyal2017.flags --data_dir=DATA --workdir=RUN

Takes the flags of hvd_imagenet.train: examine with the command that is to
train. Prints a table of what is ok, a warning or a failure, each with what to
do; exits with 1 after a failure. Nothing is trained, and nothing is left
behind. hvd_imagenet.launch starts it with --program=doctor.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence

from hvd_imagenet import flags, program
from hvd_imagenet.cluster import finding
from hvd_imagenet.cluster.finding import Level
from hvd_imagenet.config import Config
from hvd_imagenet.diagnosis.options import DoctorOptions
from hvd_imagenet.world import launched_rank


def main(config: Config, options: DoctorOptions) -> int:
    """Examines and reports; returns the exit status."""
    # TensorFlow takes seconds to start: not for --help.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from hvd_imagenet.diagnosis import examination

    json_file = options.json_file
    # The first one speaks for all.
    if json_file not in (None, "-") and not launched_rank(os.environ):
        try:
            with open(json_file, "w", encoding="utf-8"):
                pass
        except OSError as error:
            sys.stderr.write(
                f"error: --json_file={json_file} cannot be written"
                f" ({error.strerror}); choose another.\n"
            )
            return 1
    try:
        report, rank = examination.examine(
            config, flags.flagfiles(sys.argv[1:]), options.timeout_seconds
        )
    except KeyboardInterrupt:
        return program.INTERRUPTED
    return _say(report.findings, report.measured, json_file) if not rank else 0


def _say(findings, measured, json_file: str | None) -> int:
    """Writes what was found; returns the exit status."""
    worst = max(found.level for found in findings)
    text = json.dumps(
        {
            "worst": worst.name.lower(),
            "findings": [
                {**dataclasses.asdict(found), "level": found.level.name.lower()}
                for found in findings
            ],
            **measured,
        },
        indent=1,
    )
    if json_file == "-":
        sys.stdout.write(text + "\n")
    else:
        sys.stdout.write(_table(findings))
        if json_file is not None:
            with open(json_file, "w", encoding="utf-8") as file:
                file.write(text + "\n")
    return 1 if worst is Level.FAILURE else 0


def _table(findings: Sequence[finding.Finding]) -> str:
    """A line per finding, and one for what to do about it."""
    rows = [("check", "result", "found")]
    for found in findings:
        result = found.level.name
        if found.level is Level.OK:
            result = "ok"
        rows.append((found.check, result, found.text))
        if found.remedy:
            rows.append(("", "", f"-> {found.remedy}"))
    return finding.table(rows)


def run() -> None:
    """Parses the command line and runs the program."""
    program.run(main, DoctorOptions)


if __name__ == "__main__":
    run()
