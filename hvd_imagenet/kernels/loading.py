"""Loads the compiled operations, where they are."""

from typing import Any

import tensorflow as tf

from hvd_imagenet.kernels import build


class MissingKernelError(ValueError):
    """One sentence on why there is no operation."""


def operations(name: str) -> Any:
    """The operations of `name`.cc, as a module of functions.

    Raises:
        MissingKernelError: they are not compiled, or cannot be loaded.
    """
    try:
        path = build.library(name)
    except RuntimeError as error:
        raise MissingKernelError(f"{error}") from None
    if not path.exists():
        raise MissingKernelError(
            f"{name} is not compiled for this TensorFlow; tools/setup does"
            " that, or python -m hvd_imagenet.kernels.build"
        )
    try:
        return tf.load_op_library(str(path))
    except (tf.errors.NotFoundError, OSError) as error:
        raise MissingKernelError(f"{path} cannot be loaded: {error}") from None
