"""A prediction for people and for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from hvd_imagenet.scaling.inputs import Inputs
from hvd_imagenet.scaling.options import ScalingOptions

_NOT_MODELLED = (
    "Not in it: waiting for input, workers of unequal speed, the messages by"
    " which Horovod agrees on what to sum, casts of compressed gradients,"
    " evaluation and checkpoints."
)
_SAYS = {
    "flat": "over all workers",
    "leaders": "between one worker of each host, after a sum inside",
    "shards": "between hosts for the part of every worker",
}
_OVERLAP = {
    "layers": "gradients leave as layers are done",
    "whole": "all of it may hide behind the backward pass",
    "none": "after the backward pass",
}


def as_json(
    inputs: Inputs,
    options: ScalingOptions,
    recipe: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Everything as one JSON object.

    Args:
        inputs: what it was made of.
        options: what was asked.
        recipe: what is trained.
        predictions: one per number of workers, as `table` takes them.
    """
    model = inputs.model
    return {
        "step_seconds": model.compute_seconds,
        "step_source": inputs.step_source,
        "backward_seconds": model.backward_seconds,
        "backward_source": inputs.backward_source,
        "gradient_source": inputs.gradient_source,
        "gradient_tensors": len(model.backward.elements),
        "gradient_elements": sum(model.backward.elements),
        "wire_format": inputs.wire_format,
        "wire_bytes": model.wire_bytes,
        **{
            name: getattr(options, name)
            for name in (
                "latency_seconds",
                "bandwidth_gbit",
                "workers_per_host",
                "host_latency_seconds",
                "host_bandwidth_gbit",
                "reduction_seconds_per_byte",
                "algorithm",
                "hierarchy",
                "fusion_threshold_mib",
                "cycle_seconds",
                "overlap",
                "processor_seconds_per_byte",
                "tail_seconds",
            )
        },
        "fitted": list(inputs.fitted),
        "recipe": dict(recipe),
        "predictions": list(predictions),
    }


def text(
    inputs: Inputs,
    options: ScalingOptions,
    recipe: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
) -> str:
    """The inputs in words, a line per number of workers, and the limits."""
    model = inputs.model
    hosts = f"{options.workers_per_host} workers per host, who exchange"
    if options.workers_per_host == 1:
        hosts = "1 worker per host"
    elif options.host_bandwidth_gbit is None:
        hosts += " for nothing"
    else:
        hosts += (
            f" with {options.host_bandwidth_gbit:g} Gbit/s and"
            f" {1e6 * options.host_latency_seconds:g} us"
        )
    fusion = "every gradient alone"
    if options.fusion_threshold_mib:
        fusion = f"fused up to {options.fusion_threshold_mib:g} MiB"
    if options.cycle_seconds:
        fusion += f", every {1e3 * options.cycle_seconds:g} ms"
    lines = [
        f"step       {model.compute_seconds:.4g} s ({inputs.step_source}),"
        f" {model.backward_seconds:.4g} s of it backward"
        f" ({inputs.backward_source})",
        f"gradients  {len(model.backward.elements)} of"
        f" {inputs.gradient_source}, {model.wire_bytes / 1e6:,.1f} MB as"
        f" {inputs.wire_format}",
        f"network    {options.bandwidth_gbit:g} Gbit/s and"
        f" {1e6 * options.latency_seconds:g} us between hosts,"
        f" {hosts}",
        f"exchange   {options.algorithm.replace('_', '-')}"
        f" {_SAYS[options.hierarchy]}, {fusion}; {_OVERLAP[options.overlap]}",
        f"training   {recipe['epochs']} epochs of"
        f" {recipe['train_images']:,} images,"
        f" {recipe['batch_size_per_process']} per worker at once",
    ]
    if options.processor_seconds_per_byte:
        lines.append(
            f"processors {1e9 * options.processor_seconds_per_byte:g} s per GB"
            " that is exchanged, half of it (a fitted share) where the network"
            " is waited for"
        )
    if inputs.fitted:
        values = ", ".join(
            _fitted(name, inputs, options) for name in inputs.fitted
        )
        lines.append(f"fitted     {values}: fitted, not predicted")
    notes = [_NOT_MODELLED]
    refused = [p for p in predictions if p["training"] is None]
    if refused:
        notes.insert(0, f"-: {refused[0]['training_error']}")
    return "\n".join([*lines, "", table(predictions), *notes, ""])


def table(predictions: Sequence[Mapping[str, Any]]) -> str:
    """A line per number of workers, with every worker's one micro-batch.

    Args:
        predictions: fields of `prediction.Step`, images_per_second, training:
            accumulation_steps, steps and seconds of the recipe, or None where
            it cannot be cut for so many workers.
    """
    rows = [
        (
            "workers",
            "hosts",
            "exchange s",
            "exposed s",
            "step s",
            "efficiency",
            "images/s",
            "accumulated",
            "steps",
            "training",
        )
    ]
    for p in predictions:
        training = p["training"]
        rows.append(
            (
                f"{p['workers']:,}",
                f"{p['hosts']:,}",
                f"{p['exchange_seconds']:.4f}",
                f"{p['exposed_seconds']:.4f}",
                f"{p['step_seconds']:.4f}",
                f"{p['efficiency']:.1%}",
                f"{p['images_per_second']:,.0f}",
                *(
                    ("-", "-", "-")
                    if training is None
                    else (
                        f"{training['accumulation_steps']:,}",
                        f"{training['steps']:,}",
                        _duration(training["seconds"]),
                    )
                ),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(
            cell.rjust(width) for cell, width in zip(row, widths, strict=True)
        )
        + "\n"
        for row in rows
    )


def _fitted(name: str, inputs: Inputs, options: ScalingOptions) -> str:
    value = {
        "step_seconds": inputs.model.compute_seconds,
        "backward_share": inputs.model.backward.share,
    }.get(name)
    return f"{name}={getattr(options, name) if value is None else value:g}"


def _duration(seconds: float) -> str:
    """In minutes, hours or days."""
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} d"
