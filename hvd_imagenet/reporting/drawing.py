"""Panels to SVG and PNG, by matplotlib."""

import io
import warnings
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hvd_imagenet.reporting import styles
from hvd_imagenet.reporting.panels import Line, Panel
from hvd_imagenet.reporting.styles import GREY, Style

# Large enough to be read on a phone, where a panel is 350 pixels wide.
_INCHES = (4.7, 3.1)
# Side by side on a wide page, with letters of the same size.
_INCHES_OF_THREE = (3.6, 2.7)
_RC = {
    "font.family": "DejaVu Sans",  # Comes with matplotlib.
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3c4350",
    "axes.titlecolor": "#1b1f27",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7ec",
    "grid.linewidth": 0.8,
    "xtick.color": "#8a8f98",
    "ytick.color": "#8a8f98",
    "xtick.labelcolor": "#3c4350",
    "ytick.labelcolor": "#3c4350",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 2.8,
    # The same picture is the same file.
    "svg.hashsalt": "hvd_imagenet",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def svgs(panels: Sequence[Panel]) -> list[str]:
    """Panels as texts of SVGs, which need no font and no network."""
    size = _INCHES_OF_THREE if len(panels) == 3 else _INCHES
    texts = []
    with matplotlib.rc_context(_RC):
        for panel in panels:
            figure = Figure(figsize=size, layout="constrained")
            _draw(figure.subplots(), panel)
            file = io.StringIO()
            figure.savefig(
                file, format="svg", transparent=True, metadata=_NO_METADATA
            )
            # Without the address of a document type.
            _, begin, rest = file.getvalue().partition("<svg ")
            texts.append(begin + rest)
    return texts


def png(panels: Sequence[Panel], legend: Sequence[tuple[str, Style]]) -> bytes:
    """Panels side by side and a legend, as a PNG.

    Args:
        panels: at least one.
        legend: name and style of every run; left out where they repeat.
    """
    columns = 3 if len(panels) == 3 else min(2, len(panels))
    rows = -(-len(panels) // columns)
    entries = legend if len(legend) <= styles.DIFFERENT else ()
    legend_columns = columns + 1
    legend_rows = -(-len(entries) // legend_columns)
    width, height = _INCHES
    with matplotlib.rc_context(_RC):
        figure = Figure(
            figsize=(columns * width, rows * height + 0.22 * legend_rows + 0.1),
            layout="constrained",
        )
        axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        figure.legend(
            handles=[_handle(name, style) for name, style in entries],
            loc="outside lower center",
            ncols=legend_columns,
        )
        file = io.BytesIO()
        with warnings.catch_warnings():
            # Of names in a writing that the font lacks: boxes, and no lines
            # on standard error.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _handle(name: str, style: Style) -> Line2D:
    return Line2D(
        [],
        [],
        color=style.colour,
        linestyle=_linestyle(style),
        linewidth=1.8,
        label=_plain(shortened(name)),
    )


def shortened(text: str, most: int = 40) -> str:
    """A text without its middle, where it is long."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _plain(text: str) -> str:
    """A text in which matplotlib looks for no mathematics or comments."""
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _draw(axis: Axes, panel: Panel) -> None:
    for line in panel.lines:
        _draw_line(axis, line)
    axis.set_title(panel.title)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.y_scale == "linear":
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(_number))
    else:
        base = 2 if panel.y_scale == "log2" else 10
        axis.set_yscale("log", base=base)
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(_number))
    if panel.x_scale == "processes":
        worlds = sorted({int(x) for line in panel.lines for x in line.xs})
        axis.set_xscale("log", base=2)
        axis.set_xticks(worlds, [f"{world:,}" for world in worlds])
        axis.minorticks_off()
    if panel.x_scale == "linear":
        axis.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True))
        axis.set_xlim(left=0)
    _limit(axis, panel)
    if any(line.label for line in panel.lines):
        axis.legend(loc="best")
    if not panel.lines:
        axis.text(
            0.5,
            0.5,
            "nothing logged yet",
            transform=axis.transAxes,
            horizontalalignment="center",
            color=GREY,
        )


def _limit(axis: Axes, panel: Panel) -> None:
    """Sets the ends of the vertical axis, with some room above the lines."""
    low, high = axis.get_ylim()
    if panel.y_to is not None:
        high = max(high, panel.y_to)
    if panel.y_from is not None:
        low = panel.y_from
    if panel.y_scale == "linear":
        high += 0.04 * (high - low)
    if panel.y_cut is not None:
        high = panel.y_cut
    axis.set_ylim(low, high)


def _draw_line(axis: Axes, line: Line) -> None:
    style = line.style
    looks = {
        "line": {"linestyle": _linestyle(style), "linewidth": 1.5},
        "points": {
            "linestyle": _linestyle(style),
            "linewidth": 1.5,
            "marker": style.marker,
            "markersize": 4.5,
        },
        "plan": {"linewidth": 5.0, "alpha": 0.25, "solid_capstyle": "butt"},
        "marks": {
            "linestyle": "",
            "marker": "X",
            "markersize": 8.0,
            "markeredgecolor": "white",
        },
        "ideal": {"linestyle": (0, (3.0, 3.0)), "linewidth": 1.0},
    }
    look = looks[line.look]
    if np.isfinite(line.ys).sum() == 1:
        # One point makes no line.
        look = {"marker": style.marker, "markersize": 4.5} | look
    axis.errorbar(
        line.xs,
        line.ys,
        yerr=line.errors,
        color=style.colour,
        capsize=3,
        label=_plain(line.label) if line.label else None,
        **look,
    )


def _linestyle(style: styles.Style):
    return (0, style.dashes) if style.dashes else "-"


def _number(value: float, _: int) -> str:
    """As short as it can be: 20,000 and 0.05."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")
