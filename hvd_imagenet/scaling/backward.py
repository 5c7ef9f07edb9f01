"""In which order the backward pass makes gradients, and when."""

import dataclasses
import itertools
from collections.abc import Sequence

from hvd_imagenet.resnet_layers import Layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backward:
    """The backward pass of a network.

    Attributes:
        share: of the step that it takes, above 0 and at most 1.
        elements: numbers of every gradient, in the order they are made.
        ready: share of the pass that is over when each is there, rising to 1.
    """

    share: float
    elements: tuple[int, ...]
    ready: tuple[float, ...]


def of_layers(layers: Sequence[Layer]) -> Backward:
    """The pass through a network, by the multiply-adds of its layers.

    Of every layer the gradient by its weights and that by its input take as
    many as the forward pass each; the first layer's input needs none.
    """
    costs = [
        (1 if layer is layers[0] else 2) * layer.multiply_adds
        for layer in reversed(layers)
    ]
    forward = sum(layer.multiply_adds for layer in layers)
    backward = sum(costs)
    elements, ready = [], []
    for layer, done in zip(
        reversed(layers), itertools.accumulate(costs), strict=True
    ):
        for count in reversed(layer.elements):
            elements.append(count)
            ready.append(done / backward)
    return Backward(
        share=backward / (forward + backward),
        elements=tuple(elements),
        ready=tuple(ready),
    )


def of_elements(elements: Sequence[int]) -> Backward:
    """The pass through an unknown network: two thirds, evenly spread.

    Args:
        elements: numbers of every variable, in the order of the network.
    """
    return Backward(
        share=2 / 3,
        elements=tuple(reversed(elements)),
        ready=tuple(n / len(elements) for n in range(1, len(elements) + 1)),
    )
