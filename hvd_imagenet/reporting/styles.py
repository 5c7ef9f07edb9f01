"""How a run looks in every picture and table: its colour and line."""

import dataclasses

# Told apart with red, green and blue blindness, and each at least 3:1 against
# white (WCAG 2.1, 1.4.11); order and dashes tell more runs apart.
_COLOURS = ("#0060b0", "#d9480f", "#00a07a", "#c45aa8", "#2b2b2b")
_DASHES = ((), (5.0, 1.6), (1.4, 1.4), (6.0, 1.6, 1.4, 1.6))
_MARKERS = ("o", "s", "^", "D", "v")

# No run's: what is ideal or belongs to several.
GREY = "#777777"
# As many runs look different.
DIFFERENT = len(_COLOURS) * len(_DASHES)


@dataclasses.dataclass(frozen=True)
class Style:
    """The look of a run.

    Attributes:
        colour: "#rrggbb".
        dashes: lengths on and off, in widths of the line; () for a whole line.
        marker: of its points, as matplotlib names it.
    """

    colour: str = GREY
    dashes: tuple[float, ...] = ()
    marker: str = "o"


def style(number: int) -> Style:
    """The look of run `number`, from 0; repeats after `DIFFERENT` runs."""
    return Style(
        colour=_COLOURS[number % len(_COLOURS)],
        dashes=_DASHES[number // len(_COLOURS) % len(_DASHES)],
        marker=_MARKERS[number % len(_MARKERS)],
    )
