"""A checkpoint to a folder that others load without this package.

model.keras    probabilities of pixels, by layers of Keras alone
saved_model/   the same for TensorFlow Serving, of image files too
model.onnx     if it is asked for
export.json    what it is: classes, sizes, recipe, checkpoint, result
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from absl import logging

from hvd_imagenet import __version__, atomic_files
from hvd_imagenet.inference import (
    class_names,
    onnx_files,
    plain_keras,
    serving,
    trained,
)
from hvd_imagenet.inference.class_names import ClassNames
from hvd_imagenet.inference.options import ExportOptions
from hvd_imagenet.inference.predictor import Predictor
from hvd_imagenet.inference.trained import Trained
from hvd_imagenet.preprocessing import make_preprocessing
from hvd_imagenet.processes import Processes

FACTS = "export.json"
SAVED_MODEL = "saved_model"
# Raised when the meaning of what is written changes.
FORMAT_VERSION = 1


class Export(NamedTuple):
    """What to export, all of it checked.

    Attributes:
        trained: what it is.
        model: from normalised images to logits.
        names: of its classes.
        output_dir: directory to make.
        has_onnx: whether `model.onnx` is to be written.
    """

    trained: Trained
    model: keras.Model
    names: ClassNames
    output_dir: str
    has_onnx: bool


def prepare(options: ExportOptions) -> Export:
    """Checks everything that can be wrong.

    Raises:
        ValueError: one sentence on what is wrong and the remedy.
    """
    output_dir = options.output_dir
    if output_dir is None:
        raise ValueError("--output_dir is not given; name a directory to make.")
    if os.path.lexists(output_dir):
        raise ValueError(
            f"--output_dir={output_dir} is there already, and nothing is"
            " overwritten; name another, or remove it."
        )
    if options.onnx:
        onnx_files.require_packages()
    found, model = trained.load(options, Processes())
    precision = found.config.model.precision
    if options.onnx and precision != "float32":
        raise ValueError(
            f"--onnx takes float32, and the run had {precision}; add"
            " --precision=float32."
        )
    return Export(
        trained=found,
        model=model,
        names=class_names.find(found.config, options.class_names),
        # A slash at its end would make its name for now one within it.
        output_dir=os.path.abspath(output_dir),
        has_onnx=options.onnx,
    )


def write(export: Export) -> dict[str, Any]:
    """Writes the folder.

    Returns:
        The content of `export.json`.

    Raises:
        NotWrittenError: it cannot be written; nothing is left.
    """
    config, names = export.trained.config, export.names
    facts = _facts(export)
    # Those who convert say what they do at every turn.
    logging.set_verbosity(logging.WARNING)
    flip, size = config.data.evaluation_flip, config.evaluation_image_size
    with (
        atomic_files.new_folder(export.output_dir) as folder,
        _tensorflow_errors(),
    ):
        plain = plain_keras.plain_model(export.model, flip=flip)
        plain.save(os.path.join(folder, "model.keras"))
        served = serving.Served(
            export.model,
            make_preprocessing(config.data, size),
            names,
            flip=flip,
        )
        tf.saved_model.save(
            served,
            os.path.join(folder, SAVED_MODEL),
            signatures=served.signatures(),
        )
        if export.has_onnx:
            onnx_files.write(
                Predictor(export.model, flip=flip),
                os.path.join(folder, "model.onnx"),
                names,
                size,
            )
        with open(os.path.join(folder, FACTS), "w", encoding="utf-8") as file:
            file.write(json.dumps(facts, indent=1) + "\n")
    return facts


def _facts(export: Export) -> dict[str, Any]:
    found, names = export.trained, export.names
    config = found.config
    files = {
        "model.keras": "[batch, height, width, 3] RGB pixels, 0 to 255, to"
        " [batch, classes] float32 probabilities; images prepared as below",
        f"{SAVED_MODEL}/": "signatures serving_default (image_bytes: [batch]"
        " string, JPEG or PNG files), images (uint8, prepared as below) and"
        " float_images (float32); answers probabilities, top_classes,"
        " top_probabilities, top_names",
    }
    if export.has_onnx:
        files["model.onnx"] = (
            "images, [batch, height, width, 3] float32 RGB pixels, 0 to 255,"
            " prepared as below, to probabilities"
        )
    return {
        "format_version": FORMAT_VERSION,
        "hvd_imagenet": __version__,
        "files": files,
        "model": config.model.model,
        "num_classes": config.model.num_classes,
        "precision": config.model.precision,
        # How an image is prepared.
        "evaluation_resize": found.resize,
        "evaluation_image_size": config.evaluation_image_size,
        "interpolation": config.data.interpolation,
        "dct_method": config.data.dct_method,
        "evaluation_flip": config.data.evaluation_flip,
        "checkpoint": os.path.abspath(found.path),
        "step": found.step,
        "weights": found.weights,
        "command": _command(found.run),
        "result_of_run": _result(found),
        "class_names_from": names.source,
        "classes": [
            {"class": number, "id": name, "text": text}
            for number, (name, text) in enumerate(
                zip(names.ids, names.texts, strict=True)
            )
        ],
        "recipe": dict(found.recipe),
    }


def _command(run: str | None) -> str | None:
    """The command of the training, which its flagfile begins with."""
    if run is None:
        return None
    with open(os.path.join(run, "run.flags"), encoding="utf-8") as file:
        first = file.readline()
    return first.removeprefix("# ").strip() if first[:2] == "# " else None


def _result(found: Trained) -> dict[str, Any] | None:
    """The result of the run, if it is that of this checkpoint."""
    evaluated = "average" if found.recipe.get("ema_decay") else "last"
    if found.run is None or found.weights != evaluated:
        return None
    contents = []
    for name in ("plan.json", "result.json"):
        try:
            with open(os.path.join(found.run, name), encoding="utf-8") as file:
                contents.append(json.load(file))
        except (OSError, ValueError):  # Not at its end yet.
            return None
    plan, result = contents
    return result if plan.get("total_steps") == found.step else None


@contextlib.contextmanager
def _tensorflow_errors() -> Iterator[None]:
    """What TensorFlow cannot write is an OSError as all else."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
