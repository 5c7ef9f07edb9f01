"""`Config` to absl flags, command line and flagfile to `Config`, and back.

The one way from flags to values. Flags end here: below a program's `main`,
functions take a frozen config or plain values.
"""

import dataclasses
import sys
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from hvd_imagenet import config as config_lib
from hvd_imagenet import knobs

# Their help would list every flag of this module under it otherwise.
flags.disclaim_key_flags()

# absl looks these up wherever flags are parsed, but defines them only for its
# own global FLAGS.
_ABSL_FLAGS = ("flagfile", "undefok")


def define(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for every knob, as flags of the calling module."""
    for group in config_lib.Config().groups():
        types_by_name = typing.get_type_hints(type(group))
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
    try:
        positional = flag_values(list(argv))[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise flags.Error(f"--flagfile cannot be read: {error}") from error
    if positional:
        raise flags.Error(
            f"'{positional[0]}' is no flag; write --name=value, in a flagfile"
            " one per line without spaces before it, comments on lines of"
            " their own that begin with #."
        )
    groups = {}
    try:
        for group in dataclasses.fields(config_lib.Config):
            types_by_name = typing.get_type_hints(group.type)
            values = {
                field.name: _value(
                    field.name,
                    flag_values[field.name].value,
                    types_by_name[field.name],
                )
                for field in dataclasses.fields(group.type)
            }
            groups[group.name] = group.type(**values)
        return config_lib.Config(**groups)
    except ValueError as error:
        raise flags.IllegalFlagValueError(str(error)) from error


def parse_or_exit(argv: Sequence[str]) -> config_lib.Config:
    """As `parse`, for `app.run`: what is wrong is printed, without trace."""
    try:
        return parse(argv)
    except flags.Error as error:
        sys.stderr.write(f"error: {error}\nSee --help for the flags.\n")
        sys.exit(1)


def read(path: str) -> config_lib.Config:
    """The configuration that a flagfile alone asks for.

    Raises:
        ValueError: it cannot be read or understood.
    """
    values = flags.FlagValues()
    define(values)
    try:
        return parse(["", f"--flagfile={path}"], values)
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
