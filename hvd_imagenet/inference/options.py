"""What can be asked of the programs that use a training's result.

The network and how images reach it are the run's: a checkpoint keeps its
recipe, and the directory of a run the rest. Knobs of a training that may be
others here have its names and limits, and None for what the run had.
"""

import dataclasses
from typing import Any

from hvd_imagenet.config import Config, DataConfig, ModelConfig, RunConfig
from hvd_imagenet.knobs import Checked, site

# How the data is laid out: said anew where another data_dir is named.
_OF_DATA_DIR = (
    "data_format",
    "label_offset",
    "validation_images",
    "validation_labels",
)


def _as_run(group: type, name: str) -> Any:
    """A knob of a training, without a value of its own."""
    (field,) = (f for f in dataclasses.fields(group) if f.name == name)
    knob = field.metadata["knob"]
    help = knob.help.partition(" Default:")[0]
    knob = dataclasses.replace(
        knob, help=f"{help} Default: as in the run.", recipe=False
    )
    return dataclasses.field(default=None, metadata={"knob": knob})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(Checked):
    """What was trained, and how it is to see images."""

    checkpoint: str | None = site(
        None,
        "What to use: a run directory, of which the newest whole checkpoint is"
        " taken, or a checkpoint file.",
    )
    weights: str = site(
        "auto",
        "Averaged weights (a run with --ema_decay has them) or the last ones."
        " auto: averaged where there are any, as the run is evaluated.",
        choices=("auto", "average", "last"),
    )
    class_names: str | None = site(
        None,
        "Text file with a class per line, the first of class 0: a name, or a"
        " synset and words (n01440764 tench). Default: what the data set of the"
        " run says, if it is there; of 1,000 classes ImageNet's synsets.",
    )
    evaluation_image_size: int | None = _as_run(
        DataConfig, "evaluation_image_size"
    )
    evaluation_resize: int | None = _as_run(DataConfig, "evaluation_resize")
    evaluation_flip: bool | None = _as_run(DataConfig, "evaluation_flip")
    precision: str | None = _as_run(ModelConfig, "precision")

    def applied_to(self, config: Config) -> Config:
        """The configuration of a run, with what is asked for instead.

        Raises:
            ValueError: it does not fit together.
        """
        known = {
            field.name
            for group in config.groups()
            for field in dataclasses.fields(group)
        }
        asked = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name in known and getattr(self, field.name) is not None
        }
        if "data_dir" in asked or asked.get("data_format") == "synthetic":
            defaults = DataConfig()
            for name in _OF_DATA_DIR:
                asked.setdefault(name, getattr(defaults, name))
        config = config.with_knobs(asked)
        # At random where that can be, whatever the training did.
        is_remote = config.data.data_dir != config.data.local_data_dir
        return config.with_knobs(
            {"shuffle": "buffered" if is_remote else "global"}
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """What to evaluate, on which images, and what to write."""

    data_dir: str | None = _as_run(DataConfig, "data_dir")
    data_format: str | None = _as_run(DataConfig, "data_format")
    tfds_name: str | None = _as_run(DataConfig, "tfds_name")
    tfds_validation_split: str | None = _as_run(
        DataConfig, "tfds_validation_split"
    )
    validation_images: int | None = _as_run(DataConfig, "validation_images")
    validation_labels: str | None = _as_run(DataConfig, "validation_labels")
    label_offset: int | None = _as_run(DataConfig, "label_offset")
    on_corrupt: str | None = _as_run(DataConfig, "on_corrupt")
    input_threads: int | None = _as_run(DataConfig, "input_threads")
    evaluation_batch_size_per_process: int | None = _as_run(
        RunConfig, "evaluation_batch_size_per_process"
    )
    crops: str = site(
        "1",
        "Crops of every image: the central one, or this and the four corners of"
        " the square of evaluation_resize pixels, whose probabilities are"
        " averaged (Krizhevsky 2012, section 4.1). 5 with evaluation_flip is"
        " 10-crop testing.",
        choices=("1", "5"),
    )
    worst_classes: int = site(
        10,
        "Classes and pairs of classes to print, the worst first.",
        unit="rows",
        minimum=0,
    )
    json_file: str | None = site(
        None,
        "Write the result, all classes and all confused pairs as one JSON"
        " object to this file; - for standard output, without the tables.",
    )
    csv_file: str | None = site(
        None, "Write all classes as comma-separated values to this file."
    )
    stall_timeout_seconds: float = site(
        900.0,
        "End the job, naming who is missing, where a process says nothing or"
        " no process makes progress for so long. 0: wait for ever.",
        unit="seconds",
        minimum=0.0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelOptions):
    """What to export, and where to."""

    output_dir: str | None = site(
        None,
        "Directory to make; nothing is ever overwritten. It is there when all"
        " of it is.",
    )
    onnx: bool = site(
        False,
        "Write model.onnx too. It takes the packages of the extra onnx, and"
        " precision=float32.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions(ModelOptions):
    """What to ask of which images, and how to say it."""

    checkpoint: str | None = site(
        None,
        "What to use: a run directory, of which the newest whole checkpoint is"
        " taken, a checkpoint file, or a directory that hvd_imagenet.export has"
        " written.",
    )
    files_from: str | None = site(
        None,
        "Text file with the path of an image or a folder per line; - for"
        " standard input.",
    )
    top: int = site(
        5,
        "How many of the most probable classes to name.",
        unit="classes",
        minimum=1,
    )
    json: bool = site(
        False,
        "Write one JSON object per image and line, with image and classes, or"
        " image and error.",
    )
    batch_size: int = site(
        32, "Images that are predicted at once.", unit="images", minimum=1
    )
