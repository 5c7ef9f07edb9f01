"""The picture of a scaling report: efficiency, and where the loss goes."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # Nothing that needs a display.

from matplotlib import pyplot, ticker

from hvd_imagenet.measuring.scaling_report import Point

_LOSSES = {
    "communication": "tab:red",
    "data_wait": "tab:orange",
    "rest": "tab:gray",
}
_COLOURS = ("tab:blue", "tab:green", "tab:purple")


def draw(points: Sequence[Point], title: str, path: str) -> None:
    """Writes the picture of all points to a file, whose name says its type."""
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12, 5), layout="constrained"
    )
    figure.suptitle(title)
    _draw_efficiency(left, points)
    _draw_losses(right, [p for p in points if p.processes > 1])
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_efficiency(axis, points: Sequence[Point]) -> None:
    worlds = sorted({point.processes for point in points})
    axis.axhline(1.0, color="black", linestyle=":", label="ideal")
    curves = dict.fromkeys(point.curve for point in points)
    for curve, colour in zip(curves, _COLOURS, strict=False):
        own = [point for point in points if point.curve == curve]
        processes = [point.processes for point in own]
        efficiencies = [point.efficiency for point in own]
        intervals = [point.ci95 or 0.0 for point in own]
        has_baseline = processes[0] == 1
        if not has_baseline:  # Another curve's, which is 1 as well.
            processes.insert(0, 1)
            efficiencies.insert(0, 1.0)
            intervals.insert(0, 0.0)
        axis.errorbar(
            processes,
            efficiencies,
            yerr=intervals,
            marker="o",
            capsize=3,
            color=colour,
            label=curve,
        )
        if has_baseline:
            axis.plot(
                processes,
                [point.without_communication for point in own],
                linestyle="--",
                linewidth=1,
                color=colour,
                label=f"{curve}, without communication",
            )
    axis.set_xscale("log", base=2)
    axis.set_xticks(worlds, map(str, worlds))
    axis.minorticks_off()
    axis.set_xlabel("processes")
    axis.set_ylabel("efficiency (95 % interval)")
    axis.set_ylim(bottom=0.0)
    axis.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="lower left")


def _draw_losses(axis, points: Sequence[Point]) -> None:
    """Stacked bars in groups of a curve, gains below zero."""
    places = []
    curves = dict.fromkeys(point.curve for point in points)
    for group, curve in enumerate(curves):
        own = [point for point in points if point.curve == curve]
        begin = len(places) + group  # A free place after each group.
        places += [(begin + n, point) for n, point in enumerate(own)]
        axis.text(
            begin + (len(own) - 1) / 2,
            -0.08,
            curve.replace(", ", "\n"),
            transform=axis.get_xaxis_transform(),
            horizontalalignment="center",
            verticalalignment="top",
        )
    xs = [x for x, _ in places]
    above, below = [0.0] * len(places), [0.0] * len(places)
    for loss, colour in _LOSSES.items():
        shares = [getattr(point, f"lost_to_{loss}") for _, point in places]
        bottoms = [
            (above if share >= 0 else below)[n]
            for n, share in enumerate(shares)
        ]
        label = loss.replace("_", " ")
        axis.bar(xs, shares, bottom=bottoms, color=colour, label=label)
        for n, share in enumerate(shares):
            (above if share >= 0 else below)[n] += share
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.set_xticks(xs, [str(point.processes) for _, point in places])
    axis.set_ylabel("share of a step that is lost")
    axis.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axis.grid(alpha=0.3, axis="y")
    axis.margins(y=0.25)  # Room for the legend.
    axis.legend(fontsize="small")
