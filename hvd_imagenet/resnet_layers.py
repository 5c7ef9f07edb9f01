"""The layers of ResNet v1.5 as plain numbers: weights and multiply-adds.

What `resnet.build_model` builds, known without TensorFlow: He et al. 2016,
"Deep Residual Learning for Image Recognition" (arXiv 1512.03385), table 1, the
stride of a bottleneck in its 3x3 convolution.
"""

import dataclasses
from collections.abc import Iterator

# Residual blocks in each of the four stages, and whether they are bottlenecks.
STAGES = {
    # Not in table 1: the fewest blocks that have all four stages.
    "resnet10": ((1, 1, 1, 1), False),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
EXPANSION = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer that has weights.

    Attributes:
        name: as in the Keras model.
        elements: numbers in each of its trainable variables, in their order.
        multiply_adds: of the forward pass of one image; 0 for a batch
            normalization, which costs little beside a convolution.
    """

    name: str
    elements: tuple[int, ...]
    multiply_adds: int = 0


def layers(model: str, *, num_classes: int, image_size: int) -> list[Layer]:
    """The layers of a network, in the order of the model's variables.

    Args:
        model: one of `STAGES`.
        num_classes: classes of the last layer.
        image_size: side of the images in pixels.
    """
    blocks, is_bottleneck = STAGES[model]
    made = []
    side = _halved(image_size)
    made.append(_convolution("stem_conv", 3, 64, 7, side))
    made.append(_normalization("stem_bn", 64))
    side, channels = _halved(side), 64
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"stage{stage + 1}_block{block + 1}"
            stride = 2 if stage > 0 and block == 0 else 1
            width = 64 * 2**stage
            made.extend(
                _block(name, side, channels, width, stride, is_bottleneck)
            )
            channels = width * (EXPANSION if is_bottleneck else 1)
            side = _halved(side) if stride == 2 else side
    weights = channels * num_classes
    made.append(
        Layer(
            name="logits",
            elements=(weights, num_classes),
            multiply_adds=weights,
        )
    )
    return made


def _block(
    name: str,
    side: int,
    channels: int,
    width: int,
    stride: int,
    is_bottleneck: bool,
) -> Iterator[Layer]:
    """A residual block: Keras has its shortcut among its last two layers."""
    if is_bottleneck:
        filters = EXPANSION * width
        plan = ((width, 1, 1), (width, 3, stride), (filters, 1, 1))
    else:
        filters = width
        plan = ((width, 3, stride), (width, 3, 1))
    has_shortcut = stride > 1 or channels != filters
    inside, last = channels, len(plan)
    end = _halved(side) if stride == 2 else side
    for number, (outside, size, conv_stride) in enumerate(plan, 1):
        side = _halved(side) if conv_stride == 2 else side
        joins_shortcut = number == last and has_shortcut
        if joins_shortcut:
            shortcut = f"{name}_shortcut_conv"
            yield _convolution(shortcut, channels, filters, 1, end)
        conv = f"{name}_conv{number}"
        yield _convolution(conv, inside, outside, size, side)
        if joins_shortcut:
            yield _normalization(f"{name}_shortcut_bn", filters)
        yield _normalization(f"{name}_bn{number}", outside)
        inside = outside


def _convolution(
    name: str, inside: int, outside: int, size: int, side: int
) -> Layer:
    """Without bias; `side` is that of what comes out."""
    weights = inside * outside * size**2
    return Layer(
        name=name, elements=(weights,), multiply_adds=weights * side**2
    )


def _normalization(name: str, channels: int) -> Layer:
    return Layer(name=name, elements=(channels, channels))


def _halved(side: int) -> int:
    """After a stride of 2, padded by half the filter on both sides."""
    return (side + 1) // 2
