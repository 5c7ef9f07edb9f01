"""`Config` to absl flags, command line and flagfile to `Config`, and back.

The one way from flags to values. Flags end here: below a program's `main`,
functions take a frozen config or plain values.
"""

import contextlib
import dataclasses
import itertools
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from absl import flags

from hvd_imagenet import config as config_lib
from hvd_imagenet import knobs

# Their help would list every flag of this module under it otherwise.
flags.disclaim_key_flags()

# absl looks these up wherever flags are parsed, but defines them only for its
# own global FLAGS.
_ABSL_FLAGS = ("flagfile", "undefok")

_FLAGFILE = re.compile(r"--?flagfile(?:=(?P<path>.*))?")

T = TypeVar("T")


def define(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for every knob, as flags of the calling module."""
    for group in config_lib.Config().groups():
        define_group(type(group), flag_values)


def define_group(
    group: type, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines a flag for every knob of one dataclass."""
    types_by_name = typing.get_type_hints(group)
    for field in dataclasses.fields(group):
        _define_knob(field, types_by_name[field.name], flag_values)
    for name in _ABSL_FLAGS:
        if name not in flag_values:
            flags.DEFINE_string(name, "", "See absl.", flag_values=flag_values)


def parse(
    argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> config_lib.Config:
    """The configuration that a command line asks for.

    Args:
        argv: program name and arguments; `--flagfile=` is read, later
            arguments win.
        flag_values: where `define` put the flags.

    Raises:
        flags.Error: an unknown flag, a value outside its limits, values that
            do not fit together, or an argument that is no flag.
    """
    _read_flags(argv, flag_values)
    groups = {
        group.name: _group(group.type, flag_values)
        for group in dataclasses.fields(config_lib.Config)
    }
    with _as_flag_errors():
        return config_lib.Config(**groups)


def parse_apart(argv: Sequence[str], *more_groups: type) -> config_lib.Config:
    """As `parse`, whatever flags the calling program has.

    Args:
        argv: program name and arguments.
        *more_groups: dataclasses of knobs that it may set besides.
    """
    values = flags.FlagValues()
    define(values)
    for group in more_groups:
        define_group(group, values)
    return parse(argv, values)


def without_flagfiles(arguments: Sequence[str]) -> list[str]:
    """A command line that means the same and reads no flagfile.

    Raises:
        flags.Error: a flagfile cannot be read.
    """
    return flags.FlagValues().read_flags_from_files(list(arguments))


def flagfiles(arguments: Sequence[str]) -> list[str]:
    """Paths of the flagfiles in a command line."""
    paths = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        match = _FLAGFILE.fullmatch(argument)
        if match:
            path = match["path"]
            paths.append(following if path is None else path)
    return paths


def parse_group(
    group: type[T],
    argv: Sequence[str],
    flag_values: flags.FlagValues = flags.FLAGS,
) -> T:
    """As `parse`, for one dataclass of knobs."""
    _read_flags(argv, flag_values)
    return _group(group, flag_values)


def parse_with_paths(
    group: type[T],
    argv: Sequence[str],
    flag_values: flags.FlagValues = flags.FLAGS,
) -> tuple[T, list[str]]:
    """As `parse_group`, of a program whose arguments are paths and flags."""
    flag_values.set_gnu_getopt()  # Flags may stand behind a path.
    paths = _read_arguments(argv, flag_values)
    return _group(group, flag_values), paths


def parse_or_exit(
    argv: Sequence[str], parse: Callable[[Sequence[str]], T] = parse
) -> T:
    """As `parse`, for `app.run`: what is wrong is printed, without trace."""
    try:
        try:
            return parse(argv)
        finally:
            sys.stdout.flush()  # Of --help, while a broken pipe can be caught.
    except BrokenPipeError:
        # Nobody reads --help to its end; nor what the interpreter still has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except flags.Error as error:
        sys.stderr.write(f"error: {error}\nSee --help for the flags.\n")
        sys.exit(1)


def read(path: str) -> config_lib.Config:
    """The configuration that a flagfile alone asks for.

    Raises:
        ValueError: it cannot be read or understood.
    """
    try:
        return parse_apart(["", f"--flagfile={path}"])
    except flags.Error as error:
        raise ValueError(
            f"{path} cannot be understood: {error} Repair it, or choose"
            " another."
        ) from error


def to_text(config: config_lib.Config) -> str:
    """A flagfile that repeats the run, in any work directory."""
    lines = []
    for group in config.groups():
        lines.append(f"# {type(group).__doc__}")
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if value is not None and field.name != "workdir":
                lines.append(f"--{field.name}={knobs.value_text(value)}")
    return "\n".join(lines) + "\n"


def _read_flags(argv: Sequence[str], flag_values: flags.FlagValues) -> None:
    """Takes over the values of a command line that has flags only."""
    positional = _read_arguments(argv, flag_values)
    if positional:
        raise flags.Error(
            f"'{positional[0]}' is no flag; write --name=value, in a flagfile"
            " one per line without spaces before it, comments on lines of"
            " their own that begin with #."
        )


def _read_arguments(
    argv: Sequence[str], flag_values: flags.FlagValues
) -> list[str]:
    """Takes over the values of a command line; returns what is no flag."""
    try:
        return flag_values(list(argv))[1:]
    except BrokenPipeError:  # Of --help, not of a flagfile.
        raise
    except (OSError, ValueError) as error:  # Also of names and bytes.
        raise flags.Error(f"--flagfile cannot be read: {error}") from error


def _group(group: type[T], flag_values: flags.FlagValues) -> T:
    """A dataclass of knobs with the values of its flags."""
    types_by_name = typing.get_type_hints(group)
    with _as_flag_errors():
        return group(
            **{
                field.name: _value(
                    field.name,
                    flag_values[field.name].value,
                    types_by_name[field.name],
                )
                for field in dataclasses.fields(group)
            }
        )


@contextlib.contextmanager
def _as_flag_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise flags.IllegalFlagValueError(str(error)) from error


def _value(name: str, value: Any, annotation: Any) -> Any:
    if knobs.is_tuple(annotation) and value is not None:
        plain = knobs.element_type(annotation)
        try:
            return tuple(map(plain, value))
        except ValueError as error:
            kind = "whole numbers" if plain is int else "numbers"
            raise ValueError(
                f"--{name}={','.join(value)} must be {kind} between commas."
            ) from error
    return value


def _define_knob(
    field: dataclasses.Field, annotation: Any, flag_values: flags.FlagValues
) -> None:
    knob = field.metadata["knob"]
    name, default = field.name, field.default
    text = _help(knob)
    plain = knobs.element_type(annotation)
    if knobs.is_tuple(annotation):
        if default is not None:
            default = [f"{v:g}" for v in default]
        flags.DEFINE_list(name, default, text, flag_values=flag_values)
    elif knob.choices:
        flags.DEFINE_enum(
            name, default, knob.choices, text, flag_values=flag_values
        )
    else:
        define_plain = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }[plain]
        define_plain(name, default, text, flag_values=flag_values)


def _help(knob: knobs.Knob) -> str:
    """The knob's help with its unit and limits; absl adds the default."""
    facts = []
    if knob.unit:
        facts.append(f"in {knob.unit}")
    if knob.minimum is not None and knob.maximum is not None:
        facts.append(f"{knob.minimum:,.15g} to {knob.maximum:,.15g}")
    elif knob.minimum is not None:
        facts.append(f"at least {knob.minimum:,.15g}")
    facts.append("part of the recipe" if knob.recipe else "site's own")
    return f"{knob.help} [{'; '.join(facts)}]"
