"""Loads the compiled operations, where they are."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

from hvd_imagenet.kernels import build

_Loaded = TypeVar("_Loaded")


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
        compiler = build.wanted_compiler(name)
        raise MissingKernelError(
            f"{name} is not compiled for this TensorFlow; tools/setup does"
            " that, or python -m hvd_imagenet.kernels.build"
            + (f", with {compiler}" if compiler else "")
        )
    try:
        return tf.load_op_library(str(path))
    except (tf.errors.NotFoundError, OSError) as error:
        raise MissingKernelError(f"{path} cannot be loaded: {error}") from None


def works_on_cpus(load: Callable[[], Any]) -> bool:
    """Whether `load` finds its operations, and CPUs are what is computed on."""
    if tf.config.get_visible_devices("GPU"):
        return False
    try:
        load()
    except MissingKernelError:
        return False
    return True


def once(load: Callable[[], _Loaded]) -> Callable[[], _Loaded]:
    """Lets a function that may raise MissingKernelError run but once.

    Called again, it gives or raises the same; its `cache_clear` forgets that.
    """

    @functools.cache
    def outcome() -> _Loaded | MissingKernelError:
        try:
            return load()
        except MissingKernelError as error:
            return error

    @functools.wraps(load)
    def loaded() -> _Loaded:
        found = outcome()
        if isinstance(found, MissingKernelError):
            raise found
        return found

    loaded.cache_clear = outcome.cache_clear
    return loaded
