"""The picture of a prediction."""

from collections.abc import Mapping, Sequence


def draw(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    fitted: Sequence[str],
    output: str,
) -> None:
    """Writes efficiency over workers as a PNG.

    Args:
        curves: (workers, efficiency) by name, the prediction that was asked
            for first, others to compare with after it.
        fitted: names of the inputs that were fitted.
        output: file to write.

    Raises:
        ValueError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib import ticker
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            f"--plot={output} needs matplotlib ({error}); pip install"
            " matplotlib, or hvd_imagenet with its extra report."
        ) from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for place, (name, points) in enumerate(curves.items()):
        workers, efficiencies = zip(*points, strict=True)
        axes.plot(
            workers,
            [100 * efficiency for efficiency in efficiencies],
            marker="o" if place == 0 else "",
            linestyle="-" if place == 0 else "--",
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(0, 105)
    axes.set_xlabel("workers, one micro-batch each per step")
    axes.set_ylabel("efficiency: compute / step [%]")
    axes.grid(alpha=0.3)
    title = f"fitted, not predicted: {', '.join(fitted)}" if fitted else None
    axes.legend(loc="lower left", frameon=False, title=title)
    try:
        figure.savefig(output, dpi=120, format="png")
    except OSError as error:
        raise ValueError(
            f"--plot={output} cannot be written ({error.strerror}); choose"
            " another."
        ) from error
