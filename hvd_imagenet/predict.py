"""Says what images show.

    python -m hvd_imagenet.predict --checkpoint=RUN cat.jpg holidays/

    curl ... | python -m hvd_imagenet.predict --checkpoint=EXPORTED --json -

Takes a run, a checkpoint file, or what hvd_imagenet.export has written. Images
are JPEG, PNG, BMP or GIF files, folders of them, which are searched all
through, and - for one image from standard input; --files_from=- takes their
paths from there. Neither a data set nor the run's flags are needed.

Exit status: 0 when all images were predicted; 1 when some were not, which are
named, after all others were, or after another error; 130 after Ctrl-C.
"""

import json
import os
import sys
from collections.abc import Sequence

from hvd_imagenet import program
from hvd_imagenet.inference import image_files
from hvd_imagenet.inference.options import PredictOptions
from hvd_imagenet.program import UserError, for_the_user


def main(options: PredictOptions, arguments: Sequence[str]) -> int:
    """Predicts and says it; returns the exit status."""
    # TensorFlow takes seconds to start: not for --help.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return _predict(options, list(arguments))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except BrokenPipeError:
        # Nobody reads the rest; nor what the interpreter still has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted.\n")
        return program.INTERRUPTED


def _main_and_leave(options: PredictOptions, arguments: Sequence[str]) -> int:
    status = main(options, arguments)
    if status == program.INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        # A thread may still be reading what does not come.
        os._exit(status)
    return status


def _predict(options: PredictOptions, paths: list[str]) -> int:
    with for_the_user(ValueError):
        if options.files_from is not None:
            paths += image_files.listed(options.files_from)
        if not paths:
            raise ValueError(
                "no image is named; give files or folders, - for one image"
                " from standard input, or --files_from."
            )
        from hvd_imagenet.inference import predicting

        classifier = predicting.open_classifier(options)
    if not options.json:
        sys.stdout.write(
            f"{classifier.description}\n"
            f"class names: {classifier.names.source}\n"
        )
    status = 0
    for prediction in predicting.predict(
        classifier,
        image_files.find(paths),
        top=options.top,
        batch_size=options.batch_size,
    ):
        if prediction.error is not None:
            status = 1
            sys.stdout.flush()
            name = _printable(prediction.image)
            sys.stderr.write(f"error: {name} {prediction.error}\n")
        if options.json:
            sys.stdout.write(_as_json(prediction, classifier.names))
        elif prediction.error is None:
            sys.stdout.write(_text(prediction, classifier.names))
    sys.stdout.flush()
    return status


def _text(prediction, names) -> str:
    lines = [_printable(prediction.image)]
    width = len(str(len(names) - 1))
    for number, share in prediction.top:
        name = names[number]
        said = "" if name == str(number) else f"  {name}"
        lines.append(f"  {share:7.2%}  {number:{width}}{said}")
    return "\n".join(lines) + "\n"


def _as_json(prediction, names) -> str:
    content = {"image": prediction.image}
    if prediction.error is not None:
        content["error"] = prediction.error
    else:
        content["classes"] = [
            {
                "class": number,
                "id": names.ids[number],
                "text": names.texts[number],
                "probability": share,
            }
            for number, share in prediction.top
        ]
    return json.dumps(content) + "\n"


def _printable(path: str) -> str:
    """A path whatever bytes are in it."""
    return path.encode("utf-8", "backslashreplace").decode()


def run() -> None:
    """Parses the command line and runs the program."""
    program.run_apart(_main_and_leave, PredictOptions, takes_arguments=True)


if __name__ == "__main__":
    run()
