"""What `hvd_imagenet.benchmark --mode=train` has measured."""

import json
import math

_SECONDS = "step_seconds"


def step_seconds(path: str) -> float:
    """Median time of a training step of one process, without communication.

    Raises:
        ValueError: the file cannot be read, or does not tell.
    """
    try:
        with open(path, encoding="utf-8") as file:
            measured = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--measured={path} cannot be read: {error}; give the JSON file"
            " that hvd_imagenet.benchmark --mode=train has written."
        ) from error
    if not isinstance(measured, dict):
        raise ValueError(f"--measured={path} is no JSON object.")
    seconds = measured.get(_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError(
            f"--measured={path} has no number {_SECONDS}, the time of a"
            " training step; measure it with hvd_imagenet.benchmark"
            " --mode=train."
        )
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(
            f"--measured={path} has {_SECONDS} {seconds}, which must be above"
            " 0; measure again."
        )
    return float(seconds)
