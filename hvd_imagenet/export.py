"""Writes what was trained as files that others load.

    python -m hvd_imagenet.export --checkpoint=RUN --output_dir=DIR

DIR gets model.keras (layers of Keras alone), saved_model/ (for TensorFlow
Serving: JPEG or PNG files to classes and their names, with the evaluation's own
decoding, resizing and cropping), with --onnx model.onnx, and export.json, which
says what they are. None of them needs this package. DIR is there when all of it
is, and nothing is overwritten.

Exit status: 0 when all is written; 130 after Ctrl-C; 1 after an error.
"""

import os
import sys

from hvd_imagenet import program
from hvd_imagenet.atomic_files import NotWrittenError
from hvd_imagenet.inference.options import ExportOptions
from hvd_imagenet.program import UserError, for_the_user


def main(options: ExportOptions) -> int:
    """Exports; returns the exit status."""
    # TensorFlow takes seconds to start: not for --help.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from hvd_imagenet.inference import exporting

        with for_the_user(ValueError):
            export = exporting.prepare(options)
        with for_the_user(NotWrittenError):
            facts = exporting.write(export)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written.\n")
        return program.INTERRUPTED
    sys.stdout.write(
        f"{facts['model']}, {facts['num_classes']} classes"
        f" ({facts['class_names_from']}), step {facts['step']},"
        f" {facts['weights']} weights\n"
    )
    for name in (*facts["files"], exporting.FACTS):
        sys.stdout.write(f"{os.path.join(options.output_dir, name)}\n")
    return 0


def run() -> None:
    """Parses the command line and runs the program."""
    program.run_apart(main, ExportOptions)


if __name__ == "__main__":
    run()
