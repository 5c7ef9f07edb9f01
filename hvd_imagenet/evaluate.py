"""Evaluates what was trained, alone or under horovodrun.

    python -m hvd_imagenet.evaluate --checkpoint=RUN

    horovodrun -np 8 ... python -m hvd_imagenet.evaluate --checkpoint=RUN \\
        --data_dir=OTHER --crops=5 --evaluation_flip

The network and how its images are prepared come with the checkpoint, the data
from the directory of its run: every image of the validation split is counted
once, as the training itself does it. --help lists what can be asked instead.
Standard output gets the result, the worst classes and the most confused pairs;
--json_file and --csv_file get all classes.

Exit status: 0 when all was evaluated and written; 130 after Ctrl-C; 1 after an
error.
"""

import functools
import os
import sys

from hvd_imagenet import program
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.inference.options import EvaluateOptions
from hvd_imagenet.program import UserError, for_the_user
from hvd_imagenet.world import launched_rank

_describe = functools.partial(
    program.describe,
    interrupted="interrupted; nothing was written.",
)


def main(options: EvaluateOptions) -> int:
    """Evaluates and reports; returns the exit status."""
    try:
        _evaluate(options)
    except UserError as error:
        sys.stderr.write(f"{_describe(error)}\n")
        return 1
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{_describe(error)}\n")
        return program.INTERRUPTED
    return 0


def _evaluate(options: EvaluateOptions) -> None:
    # TensorFlow takes seconds to start: not for --help.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from hvd_imagenet import distributed
    from hvd_imagenet.inference import evaluating, evaluation_report
    from hvd_imagenet.supervision.supervisor import supervised

    with for_the_user(ValueError):
        # The first one speaks for all.
        if not launched_rank(os.environ):
            evaluation_report.require_outputs(options)
        processes = distributed.start()
    with supervised(
        processes, options.stall_timeout_seconds, describe=_describe
    ) as supervisor:
        with for_the_user(ValueError):
            task = evaluating.prepare(options, processes)
        with for_the_user(CorruptRecordError):
            found = evaluating.evaluate(task, processes, supervisor)
        if found is not None:
            with for_the_user(OSError):
                evaluation_report.write(task, *found, options)


def run() -> None:
    """Parses the command line and runs the program."""
    program.run_apart(main, EvaluateOptions)


if __name__ == "__main__":
    run()
