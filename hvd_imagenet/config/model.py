"""The knobs of the network."""

import dataclasses

from hvd_imagenet.knobs import Checked, recipe, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The network and its number formats."""

    model: str = recipe(
        "resnet50",
        "Network: ResNet v1.5 (stride in the 3x3 convolution).",
        choices=(
            "resnet10",
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
        ),
    )
    num_classes: int = recipe(
        1000, "Number of classes.", unit="classes", minimum=2, maximum=100_000
    )
    image_size: int = recipe(
        224,
        "Side of the square images that the network is trained on, until a"
        " phase changes it.",
        unit="pixels",
        minimum=8,
        maximum=2048,
    )
    zero_gamma: bool = recipe(
        True,
        "Start the last batch normalization of every residual block at gamma"
        " zero (Goyal 2017, section 5.1).",
    )
    blur_pool: bool = recipe(
        False,
        "Blur what convolutions of stride 2 see, but for the first, by 3x3"
        " binomial weights (Zhang 2019, arXiv 1904.11486).",
    )
    batch_norm_momentum: float = recipe(
        0.9,
        "Share of the old value that a step keeps in the running statistics"
        " of batch normalization.",
        minimum=0.0,
        maximum=0.99999,
    )
    batch_norm_epsilon: float = recipe(
        1e-5,
        "Added to the variance in batch normalization.",
        minimum=1e-8,
        maximum=0.1,
    )
    batch_norm_kernel: str = site(
        "auto",
        "What batch normalization is trained by on CPUs, with the rectifier and"
        " the sum after it. auto: the operation that tools/setup has compiled,"
        " where it is there, for float32 and bfloat16; tensorflow: TensorFlow's"
        " own operations, with the same results but for rounding and in more"
        " time.",
        choices=("auto", "tensorflow"),
    )
    convolution_kernel: str = site(
        "auto",
        "What convolutions are made by on CPUs. auto: in float32 by operations"
        " that tools/setup has compiled, where they are there: by AMX where the"
        " processor has it, else those of 3x3 by Winograd's minimal filtering;"
        " in bfloat16 with AMX, gradients by weights as matrix products."
        " tensorflow: TensorFlow's own operations, with the same results but"
        " for rounding and in more time.",
        choices=("auto", "tensorflow"),
    )
    xla: bool = site(
        False,
        "Let XLA compile clusters of TensorFlow's operations, small enough that"
        " gradients are exchanged between them while the backward pass goes"
        " on; with the same results but for rounding. For GPUs, where its"
        " worth is not measured yet; on CPUs it gains nothing, and"
        " TensorFlow's own operations take four times as long with it."
        " TF_XLA_FLAGS in the environment wins.",
    )
    bn_statistics: str = recipe(
        "average",
        "Running statistics used to evaluate and kept in checkpoints: the"
        " average over ranks, which is independent of the number of ranks, or"
        " those of rank 0.",
        choices=("average", "rank0"),
    )
    precision: str = recipe(
        "float32",
        "Format of activations and convolutions; variables, batch"
        " normalization statistics and logits stay float32. float16 scales the"
        " loss dynamically.",
        choices=("float32", "bfloat16", "float16"),
    )
