"""What images show: by a checkpoint, or by what was exported of one."""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvd_imagenet import devices, tf_errors
from hvd_imagenet.config import Config
from hvd_imagenet.inference import class_names, exporting, image_files, trained
from hvd_imagenet.inference.class_names import ClassNames
from hvd_imagenet.inference.options import ModelOptions, PredictOptions
from hvd_imagenet.inference.predictor import Predictor
from hvd_imagenet.preprocessing import Preprocessing, make_preprocessing
from hvd_imagenet.processes import Processes


class Classifier(NamedTuple):
    """What is asked.

    Attributes:
        description: for people.
        preprocessing: from encoded images to prepared ones.
        probabilities: from [batch, side, side, 3] uint8 RGB to
            [batch, classes] float32.
        names: of the classes.
    """

    description: str
    preprocessing: Preprocessing
    probabilities: Callable[[tf.Tensor], tf.Tensor]
    names: ClassNames


class Prediction(NamedTuple):
    """What an image shows.

    Attributes:
        image: its path.
        top: (class, probability), falling.
        error: why there are none; None if there are.
    """

    image: str
    top: list[tuple[int, float]]
    error: str | None = None


def open_classifier(options: PredictOptions) -> Classifier:
    """Opens what --checkpoint names.

    Raises:
        ValueError: one sentence on what is wrong and the remedy.
    """
    folder = options.checkpoint
    if folder and os.path.isfile(os.path.join(folder, exporting.FACTS)):
        return _of_export(folder, options)
    found, model = trained.load(options, Processes())
    config = found.config
    size = config.evaluation_image_size
    predictor = Predictor(model, flip=config.data.evaluation_flip)
    return Classifier(
        description=str(found),
        preprocessing=make_preprocessing(config.data, size),
        probabilities=tf.function(
            lambda images: tf.nn.softmax(predictor(images)),
            [tf.TensorSpec([None, size, size, 3], tf.uint8)],
        ),
        names=class_names.find(config, options.class_names),
    )


def predict(
    classifier: Classifier, paths: Iterable[str], *, top: int, batch_size: int
) -> Iterator[Prediction]:
    """What images show, in their order.

    Args:
        classifier: what to ask.
        paths: of image files; - for standard input.
        top: how many classes of each.
        batch_size: images at once.
    """
    size = classifier.preprocessing.image_size

    @tf.function(
        input_signature=[tf.TensorSpec([], tf.string)], autograph=False
    )
    def prepare(encoded: tf.Tensor) -> tf.Tensor:
        # Where it is done in an evaluation, too.
        with tf.device("/CPU:0"):
            return classifier.preprocessing.evaluation_image(encoded)

    def open_image(path: str) -> tuple[np.ndarray | None, str | None]:
        try:
            encoded = image_files.read(path)
        except image_files.UnreadableError as error:
            return None, str(error)
        try:
            return prepare(encoded).numpy(), None
        except tf_errors.ERRORS as error:
            return None, f"is no image ({tf_errors.reason(error)})"

    paths = iter(paths)
    pool = futures.ThreadPoolExecutor(
        devices.threads_per_process(Processes().world)
    )
    try:
        while batch := list(itertools.islice(paths, batch_size)):
            opened = list(pool.map(open_image, batch))
            images = [image for image, _ in opened if image is not None]
            images = np.reshape(images, [-1, size, size, 3]).astype(np.uint8)
            found = iter(classifier.probabilities(tf.constant(images)).numpy())
            for path, (_, error) in zip(batch, opened, strict=True):
                if error is not None:
                    yield Prediction(path, [], error)
                    continue
                shares = next(found)
                best = np.argsort(-shares, kind="stable")[:top]
                yield Prediction(
                    path, [(int(n), float(shares[n])) for n in best]
                )
    finally:
        # Without waiting: after Ctrl-C one may still read what does not come.
        pool.shutdown(wait=False, cancel_futures=True)


def _of_export(folder: str, options: PredictOptions) -> Classifier:
    for field in dataclasses.fields(ModelOptions):
        value = getattr(options, field.name)
        if field.name not in ("checkpoint", "class_names") and (
            value != field.default
        ):
            raise ValueError(
                f"--{field.name}={value} is for a run or a checkpoint; what"
                f" --checkpoint={folder} has exported is as it is."
            )
    path = os.path.join(folder, exporting.FACTS)
    try:
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
        return _made(folder, facts, options)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}, or what is beside it, cannot be read ({error}); export"
            " it again."
        ) from error


def _made(
    folder: str, facts: dict[str, Any], options: PredictOptions
) -> Classifier:
    if facts["format_version"] != exporting.FORMAT_VERSION:
        raise ValueError(f"it is of version {facts['format_version']}")
    config = Config().with_knobs(
        {
            name: facts[name]
            for name in (
                "num_classes",
                "evaluation_resize",
                "evaluation_image_size",
                "interpolation",
                "dct_method",
            )
        }
    )
    if options.class_names is not None:
        names = class_names.find(config, options.class_names)
    else:
        names = ClassNames(
            ids=tuple(each["id"] for each in facts["classes"]),
            texts=tuple(each["text"] for each in facts["classes"]),
            source=facts["class_names_from"],
        )
    loaded = tf.saved_model.load(os.path.join(folder, exporting.SAVED_MODEL))

    def probabilities(images: tf.Tensor) -> tf.Tensor:
        # Of `loaded`, which keeps its variables.
        return loaded.signatures["images"](images=images)["probabilities"]

    return Classifier(
        description=f"{facts['model']}, {folder}, step {facts['step']},"
        f" {facts['weights']} weights",
        preprocessing=make_preprocessing(
            config.data, config.evaluation_image_size
        ),
        probabilities=probabilities,
        names=names,
    )
