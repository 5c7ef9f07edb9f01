"""What was asked, made into the model that predicts."""

import dataclasses
from collections.abc import Callable
from typing import Any

from hvd_imagenet import resnet_layers
from hvd_imagenet.config import Config
from hvd_imagenet.scaling import backward as backward_lib
from hvd_imagenet.scaling import measured, timeline
from hvd_imagenet.scaling.network import FREE, Link, Network
from hvd_imagenet.scaling.options import ScalingOptions
from hvd_imagenet.scaling.prediction import Model

_WIRE = {
    "none": ("float32", 4),
    "fp16": ("float16", 2),
    "bf16": ("bfloat16", 2),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a prediction is made of, and where that is from.

    Attributes:
        model: that predicts.
        step_source: what told the time of a step.
        backward_source: what told the share of the backward pass.
        gradient_source: whose gradients they are.
        wire_format: of gradients.
        fitted: names of the options that were fitted, not measured.
        image_cost: of an image of so many pixels a side, in any unit.
    """

    model: Model
    step_source: str
    backward_source: str
    gradient_source: str
    wire_format: str
    fitted: tuple[str, ...]
    image_cost: Callable[[int], float]


def make_inputs(options: ScalingOptions, config: Config) -> Inputs:
    """Makes the model of a job.

    Raises:
        ValueError: the file of --measured does not tell what is needed.
    """
    seconds, step_source = options.step_seconds, "given"
    if seconds is None:
        seconds = measured.micro_batch_seconds(
            options.measured, _measurable(options, config)
        )
        step_source = f"measured, {options.measured}"
    if options.gradient_elements is None:
        layers = _layers(config, config.model.image_size)
        backward = backward_lib.of_layers(layers)
        gradient_source = config.model.model
        backward_source = f"multiply-adds of {config.model.model}"

        def image_cost(size: int) -> float:
            return sum(layer.multiply_adds for layer in _layers(config, size))

    else:
        backward = backward_lib.of_elements(options.gradient_elements)
        gradient_source = "--gradient_elements"
        backward_source = "two thirds, an assumption"

        def image_cost(size: int) -> float:
            return size**2

    if options.backward_share is not None:
        backward = dataclasses.replace(backward, share=options.backward_share)
        backward_source = "given"
    compression = config.optimization.compression
    if compression not in _WIRE:
        raise ValueError(
            f"--compression={compression} is known only where it runs; say"
            f" which to predict: {', '.join(_WIRE)}."
        )
    wire_format, bytes_per_element = _WIRE[compression]
    fitted = list(dict.fromkeys(options.fitted))
    if options.tail_seconds and "tail_seconds" not in fitted:
        fitted.append("tail_seconds")
    return Inputs(
        model=Model(
            compute_seconds=seconds,
            backward=backward,
            bytes_per_element=bytes_per_element,
            network=_network(options),
            algorithm=options.algorithm,
            hierarchy=options.hierarchy,
            contained=options.host_bandwidth_gbit is None,
            fusion=timeline.Fusion(
                threshold_bytes=options.fusion_threshold_mib * 2**20,
                cycle_seconds=options.cycle_seconds,
            ),
            overlap=options.overlap,
            processor_seconds_per_byte=options.processor_seconds_per_byte,
            tail_seconds=options.tail_seconds,
        ),
        step_source=step_source,
        backward_source=backward_source,
        gradient_source=gradient_source,
        wire_format=wire_format,
        fitted=tuple(fitted),
        image_cost=image_cost,
    )


def _measurable(options: ScalingOptions, config: Config) -> dict[str, Any]:
    """What a measured step must be of, by its name in the file."""
    if options.gradient_elements is not None:
        return {}  # Of a network that this package does not know.
    return {
        "model": config.model.model,
        "image_size": config.model.image_size,
        "precision": config.model.precision,
        "batch_size_per_process": config.optimization.batch_size_per_process,
    }


def _layers(config: Config, image_size: int) -> list[resnet_layers.Layer]:
    return resnet_layers.layers(
        config.model.model,
        num_classes=config.model.num_classes,
        image_size=image_size,
    )


def _network(options: ScalingOptions) -> Network:
    inside = FREE
    if options.host_bandwidth_gbit is not None:
        inside = _link(
            options.host_latency_seconds, options.host_bandwidth_gbit
        )
    return Network(
        between_hosts=_link(options.latency_seconds, options.bandwidth_gbit),
        inside_host=inside,
        workers_per_host=options.workers_per_host,
        reduction_seconds_per_byte=options.reduction_seconds_per_byte,
    )


def _link(latency_seconds: float, gbit: float) -> Link:
    return Link(
        latency_seconds=latency_seconds, seconds_per_byte=8 / (gbit * 1e9)
    )
