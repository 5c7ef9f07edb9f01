"""Reads the data of a run and tells what is wrong with it.

    python -m hvd_imagenet.check_data --data_dir=DATA --full

Takes the flags of hvd_imagenet.train. Reads a sample of both splits, or all of
them with --full: every record against its CRC, every image decoded whole.
Standard output gets the report. The exit status is 0 if nothing is wrong, 1 if
something is, 130 after Ctrl-C, which reports what was seen until then.
"""

import os
import sys

from hvd_imagenet import program
from hvd_imagenet.config import Config
from hvd_imagenet.data_report import table
from hvd_imagenet.split_checks import Check, CheckOptions


def main(config: Config, options: CheckOptions) -> int:
    """Checks the data; returns the exit status."""
    check = Check(config, options)
    path = options.json_file
    try:
        # Known before, not after, hours of reading.
        _write(path, check.as_json(is_finished=False))
    except OSError as error:
        sys.stderr.write(
            f"error: --json_file={path} cannot be written ({error.strerror});"
            " choose another.\n"
        )
        return 1
    check.run()
    _write(path, check.as_json(is_finished=True))
    for error in check.errors:
        sys.stderr.write(f"error: {error}\n")
    if check.reports:
        sys.stdout.write(_text(check))
        sys.stdout.flush()
    if check.is_interrupted:
        sys.stderr.write("interrupted; the report says what was read.\n")
        return program.INTERRUPTED
    return 1 if check.errors or check.problems() else 0


def _text(check: Check) -> str:
    """The report for people."""
    reports = [check.reports[k] for k in sorted(check.reports)]
    problems = check.problems()
    lines = [f"error: {problem}" for problem in problems]
    lines += [f"warning: {warning}" for warning in check.warnings()]
    read = " and ".join(
        f"{report.read:,} of {report.images:,} {report.split} images"
        for report in reports
    )
    verdict = "Something is" if problems else "Nothing is"
    return (
        f"{table(reports)}\n"
        + "".join(f"{line}\n" for line in lines)
        + f"{verdict} wrong with what was read: {read}.\n"
    )


def _write(path: str | None, text: str) -> None:
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def _main_and_leave(config: Config, options: CheckOptions) -> int:
    # TensorFlow would write a line of its own about every damaged JPEG.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    # Others may be training on them.
    tf.config.set_visible_devices([], "GPU")
    status = main(config, options)
    if status:
        # A thread may still be waiting for a storage that does not answer.
        os._exit(status)
    return status


def run() -> None:
    """Parses the command line and runs the program."""
    program.run(_main_and_leave, CheckOptions)


if __name__ == "__main__":
    run()
