"""What a picture shows, as plain numbers."""

import dataclasses

import numpy as np

from hvd_imagenet.reporting.styles import Style


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a panel.

    Attributes:
        xs: [points] float64.
        ys: [points] float64; a nan is a gap.
        style: the run's.
        look: "line"; "points": a line with a marker at each; "plan": broad and
            pale, to lie under a line; "marks": crosses alone; "ideal": thin.
        errors: [points] half the height of an interval around each point.
        label: in a legend within the panel; "" for none.
    """

    xs: np.ndarray
    ys: np.ndarray
    style: Style
    look: str = "line"
    errors: np.ndarray | None = None
    label: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture with two axes.

    Attributes:
        title: says what is seen.
        x_label: with the unit.
        y_label: with the unit.
        lines: from the back to the front.
        description: the same in words, for who does not see it.
        y_scale: "linear", "log", or "log2".
        x_scale: "linear", or "processes": powers of two.
        y_from: where the vertical axis begins; None for where the lines do.
        y_to: where it ends at least.
        y_cut: where it ends at most; the caption says so.
        caption: below the panel; "" for none.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    description: str
    y_scale: str = "linear"
    x_scale: str = "linear"
    y_from: float | None = None
    y_to: float | None = None
    y_cut: float | None = None
    caption: str = ""
