"""Fields of configurations that know their meaning, unit and limits."""

import dataclasses
import math
import types
import typing
import unicodedata
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knob:
    """What is known of a field beside its name, type and default.

    Attributes:
        help: one or two sentences without the unit, default and limits.
        unit: unit of the value, shown in `--help`.
        minimum: least value allowed (inclusive), of every element of a tuple.
        maximum: greatest value allowed (inclusive).
        choices: the values allowed, of a string.
        when: (name, values) of the knob of the same group that this one needs
            to have any effect; None if it always has.
        recipe: whether the knob changes the result of the training.
    """

    help: str
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    when: tuple[str, tuple[str, ...]] | None = None
    recipe: bool = False

    def applies(self, group: Any) -> bool:
        """Whether it has an effect beside the other knobs of its group."""
        if self.when is None:
            return True
        name, values = self.when
        return getattr(group, name) in values


def recipe(default: Any, help: str, **limits: Any) -> Any:
    """A field that is part of the recipe; `limits` are those of `Knob`."""
    knob = Knob(help=help, recipe=True, **limits)
    return dataclasses.field(default=default, metadata={"knob": knob})


def site(default: Any, help: str, **limits: Any) -> Any:
    """A field that is the site's own; `limits` are those of `Knob`."""
    knob = Knob(help=help, recipe=False, **limits)
    return dataclasses.field(default=default, metadata={"knob": knob})


def value_text(value: Any) -> str:
    """A value as it is written behind `--name=`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(element).removesuffix(".0") for element in value)
    return str(value)


def element_type(annotation: Any) -> type:
    """The plain type in `T`, `tuple[T, ...]`, and either `| None`."""
    while typing.get_origin(annotation) in (types.UnionType, tuple):
        annotation = typing.get_args(annotation)[0]
    return annotation


def is_tuple(annotation: Any) -> bool:
    """Whether a type is `tuple[T, ...]` or that `| None`."""
    if typing.get_origin(annotation) is types.UnionType:
        annotation = typing.get_args(annotation)[0]
    return typing.get_origin(annotation) is tuple


def _check(name: str, value: Any, annotation: Any, knob: Knob) -> None:
    optional = type(None) in typing.get_args(annotation)
    if value is None and optional:
        return
    plain = element_type(annotation)
    said = f"--{name}={value_text(value)}"
    has_many = is_tuple(annotation)
    if has_many and not isinstance(value, tuple):
        raise ValueError(f"{said} must be a tuple of {plain.__name__}.")
    for element in value if has_many else (value,):
        # bool is an int to Python, and 1 is a fine float; nothing else mixes.
        accepted = (int, float) if plain is float else (plain,)
        if not isinstance(element, accepted) or (
            isinstance(element, bool) and plain is not bool
        ):
            raise ValueError(f"{said} must be of type {plain.__name__}.")
        if plain is float and not math.isfinite(element):
            raise ValueError(f"{said} must be finite.")
        if plain is str and not _fits_a_line(element):
            raise ValueError(
                f"--{name}={element!r} cannot be kept in a flagfile: it has"
                " control characters, bytes that are not UTF-8 or a space at"
                " its end; rename what it names, or make a link to it."
            )
        unit = f" {knob.unit}" if knob.unit else ""
        if knob.choices and element not in knob.choices:
            raise ValueError(
                f"{said} must be one of {', '.join(knob.choices)}."
            )
        if knob.minimum is not None and element < knob.minimum:
            least = f"{knob.minimum:,.15g}{unit}"
            raise ValueError(f"{said} must be at least {least}.")
        if knob.maximum is not None and element > knob.maximum:
            raise ValueError(
                f"{said} must be at most {knob.maximum:,.15g}{unit}."
            )


def _fits_a_line(text: str) -> bool:
    """Whether a flagfile with it says the same when it is read again."""
    # Control characters, and what stands for bytes that are not UTF-8.
    categories = {unicodedata.category(character) for character in text}
    return text == text.rstrip() and not categories & {"Cc", "Cs"}


class Checked:
    """Checks every field of a dataclass against its knob's limits.

    Raises:
        ValueError: one sentence with the flag, the value and the limit.
    """

    def __post_init__(self):
        types_by_name = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _check(
                field.name,
                value,
                types_by_name[field.name],
                field.metadata["knob"],
            )
