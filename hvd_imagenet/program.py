"""How the programs begin and end: a command line, an exit status."""

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app
from absl import flags as absl_flags

from hvd_imagenet import clusters, flags

# As shells report a program that SIGINT ended.
INTERRUPTED = 130
# EX_TEMPFAIL of sysexits.h, which schedulers may requeue by: a training run was
# asked to stop by SIGTERM or SIGINT, has saved a checkpoint and can go on.
STOPPED = 75

# Of a program that starts TensorFlow, which reads them when it is imported;
# unless the environment says otherwise. oneDNN's kernels are its default only
# on CPUs with AVX512_VNNI or newer. On an EPYC with AVX2 alone ResNet-18 at 32
# pixels trained at 24 images/s without them, and at 104 with them (TensorFlow
# 2.18.1, two cores).
_ENVIRONMENT = {"TF_ENABLE_ONEDNN_OPTS": "1"}

# The flags belong to the program that runs.
absl_flags.disclaim_key_flags()


class UserError(Exception):
    """What was asked cannot be done; the message is for the user."""


@contextlib.contextmanager
def for_the_user(*errors: type[Exception]) -> Iterator[None]:
    """Makes `errors` a message without a trace."""
    try:
        yield
    except errors as error:
        raise UserError(error) from error


def describe(error: BaseException, *, interrupted: str) -> str:
    """What a program says of an error that ends it.

    Args:
        error: a trace of it, unless it is the user's.
        interrupted: what to say of Ctrl-C.
    """
    if isinstance(error, UserError):
        return f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        return interrupted
    return "".join(traceback.format_exception(error)).rstrip()


def run(main: Callable[..., int], *groups: type) -> None:
    """Runs a program by the flags of a job and some of its own.

    Args:
        main: from the configuration of the job, and a value of each group, to
            the exit status.
        *groups: dataclasses of knobs, the program's own.
    """
    _prepare()
    flags.define()
    for group in groups:
        flags.define_group(group)

    def parse(argv: Sequence[str]) -> tuple[Any, ...]:
        options = (flags.parse_group(group, argv) for group in groups)
        return flags.parse(argv), *options

    def begin(parsed: tuple[Any, ...]) -> int:
        config, *_ = parsed
        if config.model.xla:
            clusters.set_limits(os.environ)
        return main(*parsed)

    app.run(begin, flags_parser=lambda argv: flags.parse_or_exit(argv, parse))


def run_apart(
    main: Callable[..., int], group: type, *, takes_arguments: bool = False
) -> None:
    """Runs a program by flags of its own alone.

    Args:
        main: from a value of the group, and the arguments that are no flags if
            it takes any, to the exit status.
        group: a dataclass of knobs.
        takes_arguments: whether it takes any.
    """
    _prepare()
    flags.define_group(group)

    def parse(argv: Sequence[str]) -> tuple[Any, ...]:
        if takes_arguments:
            return flags.parse_with_paths(group, argv)
        return (flags.parse_group(group, argv),)

    app.run(
        lambda parsed: main(*parsed),
        flags_parser=lambda argv: flags.parse_or_exit(argv, parse),
    )


def _prepare() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
