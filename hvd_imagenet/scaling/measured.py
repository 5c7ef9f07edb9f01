"""What `hvd_imagenet.benchmark --mode=train` has measured."""

import json
import math
from collections.abc import Mapping
from typing import Any

# Of an optimizer step, with all that it accumulates and without exchange.
_SECONDS = "compute_seconds_per_step"
_MICRO_BATCHES = "accumulation_steps"


def micro_batch_seconds(path: str, asked: Mapping[str, Any]) -> float:
    """Median time that a process computes for a micro-batch.

    Args:
        path: JSON file that the benchmark has written.
        asked: values that it must not contradict, by name.

    Raises:
        ValueError: the file cannot be read, does not tell, or is of something
            else than asked.
    """
    try:
        with open(path, encoding="utf-8") as file:
            measured = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--measured={path} cannot be read ({error}); give the JSON file"
            " that hvd_imagenet.benchmark --mode=train has written."
        ) from error
    if not isinstance(measured, dict):
        raise ValueError(
            f"--measured={path} is no JSON object; give what"
            " hvd_imagenet.benchmark --mode=train has written."
        )
    for name, value in asked.items():
        if measured.get(name, value) != value:
            raise ValueError(
                f"--measured={path} is of {name}={measured[name]}, and {value}"
                " is asked for; measure with the flags of the training."
            )
    seconds = _positive(path, measured, _SECONDS)
    if _MICRO_BATCHES in measured:
        seconds /= _positive(path, measured, _MICRO_BATCHES)
    return seconds


def _positive(path: str, measured: Mapping[str, Any], name: str) -> float:
    value = measured.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0):
        said = "lacks" if value is None else f"has {value!r} for"
        raise ValueError(
            f"--measured={path} {said} {name}, a number above 0; measure with"
            " hvd_imagenet.benchmark --mode=train."
        )
    return value
