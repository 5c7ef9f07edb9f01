"""An evaluation for people and for programs."""

import csv
import io
import json
import sys
from typing import Any

from hvd_imagenet.cluster.finding import table
from hvd_imagenet.inference.evaluating import Task
from hvd_imagenet.inference.options import EvaluateOptions
from hvd_imagenet.inference.per_class import CSV_COLUMNS, ByClass

# Of a name in a table.
_WIDTH = 40


def require_outputs(options: EvaluateOptions) -> None:
    """Known before, not after, the images are evaluated.

    Raises:
        ValueError: a file cannot be written.
    """
    for name in ("json_file", "csv_file"):
        path = getattr(options, name)
        if path not in (None, "-"):
            try:
                with open(path, "a", encoding="utf-8"):
                    pass
            except OSError as error:
                raise ValueError(
                    f"--{name}={path} cannot be written ({error.strerror});"
                    " choose another."
                ) from error


def write(
    task: Task,
    result: dict[str, Any],
    by_class: ByClass,
    options: EvaluateOptions,
) -> None:
    """Writes what was found to where it is asked for.

    Raises:
        OSError: it cannot be written.
    """
    as_json = json.dumps(_content(task, result, by_class, options), indent=1)
    if options.json_file == "-":
        sys.stdout.write(f"{as_json}\n")
    else:
        sys.stdout.write(_text(task, result, by_class, options))
    sys.stdout.flush()
    if options.json_file not in (None, "-"):
        _write(options.json_file, f"{as_json}\n")
    if options.csv_file is not None:
        lines = io.StringIO()
        writer = csv.DictWriter(lines, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(by_class.rows())
        _write(options.csv_file, lines.getvalue())


def _content(
    task: Task,
    result: dict[str, Any],
    by_class: ByClass,
    options: EvaluateOptions,
) -> dict[str, Any]:
    trained = task.trained
    return {
        "checkpoint": trained.path,
        "step": trained.step,
        "weights": trained.weights,
        "model": trained.config.model.model,
        "precision": trained.config.model.precision,
        "evaluation_image_size": trained.config.evaluation_image_size,
        "evaluation_resize": trained.resize,
        "evaluation_flip": trained.config.data.evaluation_flip,
        "crops": int(options.crops),
        "data": task.source.description,
        "data_dir": trained.config.data.data_dir,
        "class_names": by_class.names.source,
        "processes": task.plan.world_size,
        "result": result,
        "classes": list(by_class.rows()),
        "confused": [
            {"class": label, "predicted": predicted, "images": images}
            for label, predicted, images in by_class.confused()
        ],
    }


def _text(
    task: Task,
    result: dict[str, Any],
    by_class: ByClass,
    options: EvaluateOptions,
) -> str:
    trained, config = task.trained, task.trained.config
    size = config.evaluation_image_size
    views = "the center" if options.crops == "1" else "four corners and center"
    if config.data.evaluation_flip:
        views += " and mirrored"
    skipped = f", {result['skipped']} skipped" if "skipped" in result else ""
    parts = [
        f"{trained}\n"
        f"images: {config.data.data_dir or 'made up'},"
        f" {task.source.description}\n"
        f"views: {views}, {size} x {size} of {trained.resize} pixels,"
        f" {config.model.precision}\n"
        f"class names: {by_class.names.source}\n"
    ]
    if options.worst_classes:
        parts.append(_worst(by_class, options))
        if by_class.confused():
            parts.append(_pairs(by_class, options))
    parts.append(
        f"result: top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%},"
        f" loss {result['loss']:.4f} on {result['examples']} images{skipped}\n"
    )
    return "\n".join(parts)


def _worst(by_class: ByClass, options: EvaluateOptions) -> str:
    rows = [("worst classes", "images", "top-1", "top-5", "precision")]
    for row in by_class.worst(options.worst_classes):
        shares = (row["top1"], row["top5"], row["precision"])
        rows.append(
            (
                _name(by_class, row["class"]),
                f"{row['images']:6}",
                *("-" if s is None else f"{s:7.2%}" for s in shares),
            )
        )
    return table(rows)


def _pairs(by_class: ByClass, options: EvaluateOptions) -> str:
    rows = [("most confused", "taken for", "images")]
    for label, predicted, images in by_class.confused()[
        : options.worst_classes
    ]:
        rows.append(
            (
                _name(by_class, label),
                _name(by_class, predicted),
                f"{images:6}",
            )
        )
    return table(rows)


def _name(by_class: ByClass, number: int) -> str:
    name = by_class.names[number]
    if name != str(number):
        name = f"{number} {name}"
    return name if len(name) <= _WIDTH else f"{name[: _WIDTH - 3]}..."


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OSError(
            f"{path} could not be written ({error.strerror}); the result is"
            " above."
        ) from error
