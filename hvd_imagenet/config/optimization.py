"""The knobs of batch, update rule, loss and wire."""

import dataclasses

from hvd_imagenet.knobs import Checked, recipe, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationConfig(Checked):
    """Batch, update rule, loss and the format of gradients on the wire."""

    epochs: int = recipe(
        90, "Passes over the training images.", unit="epochs", minimum=1
    )
    global_batch_size: int | None = recipe(
        None,
        "Images per optimizer step, over all processes. Fewer processes than"
        " it takes accumulate micro-batches, so that the optimization is the"
        " same on any number of them. Default: batch_size_per_process x"
        " processes.",
        unit="images",
        minimum=1,
    )
    batch_size_per_process: int = recipe(
        32,
        "Images of a micro-batch, which one process runs at once and which"
        " batch normalization sees.",
        unit="images",
        minimum=1,
    )
    optimizer: str = recipe(
        "momentum",
        "Update rule: momentum SGD; LARS as You 2017 or as MLPerf's reference"
        " has it; RMSprop that turns into momentum SGD (Akiba 2017); LAMB.",
        choices=("momentum", "lars", "lars_mlperf", "rmsprop_warmup", "lamb"),
    )
    lars_coefficient: float = recipe(
        0.001,
        "Trust coefficient of LARS: how far a step moves a layer at rate 1, as"
        " a share of the layer's norm.",
        minimum=1e-6,
        maximum=1.0,
        when=("optimizer", ("lars", "lars_mlperf")),
    )
    rmsprop_learning_rate: float = recipe(
        3e-4,
        "Learning rate of the RMSprop part of optimizer=rmsprop_warmup.",
        minimum=0.0,
        maximum=1.0,
        when=("optimizer", ("rmsprop_warmup",)),
    )
    rmsprop_center_epochs: float = recipe(
        10.0,
        "Epoch at which optimizer=rmsprop_warmup is half SGD.",
        unit="epochs",
        minimum=0.0,
        when=("optimizer", ("rmsprop_warmup",)),
    )
    rmsprop_period_epochs: float = recipe(
        5.0,
        "Twice the time that optimizer=rmsprop_warmup takes from half SGD to"
        " SGD alone.",
        unit="epochs",
        minimum=0.01,
        when=("optimizer", ("rmsprop_warmup",)),
    )
    rmsprop_slope: str = recipe(
        "continuous",
        "How SGD's share rises from half on: so that it meets 1, or by the"
        " formula as it is printed, which passes 1 and drops back.",
        choices=("continuous", "printed"),
        when=("optimizer", ("rmsprop_warmup",)),
    )
    lamb_beta_1: float = recipe(
        0.9,
        "Share of the old value that a step keeps in LAMB's mean gradient.",
        minimum=0.0,
        maximum=0.99999,
        when=("optimizer", ("lamb",)),
    )
    lamb_beta_2: float = recipe(
        0.999,
        "Share of the old value that a step keeps in LAMB's mean square of"
        " the gradient.",
        minimum=0.0,
        maximum=0.99999,
        when=("optimizer", ("lamb",)),
    )
    lamb_epsilon: float = recipe(
        1e-6,
        "Added to the root of the mean square in LAMB.",
        minimum=1e-12,
        maximum=1.0,
        when=("optimizer", ("lamb",)),
    )
    momentum: float = recipe(
        0.9,
        "Momentum: share of the old value that a step keeps in the buffer.",
        minimum=0.0,
        maximum=0.99999,
        when=(
            "optimizer",
            ("momentum", "lars", "lars_mlperf", "rmsprop_warmup"),
        ),
    )
    nesterov: bool = recipe(
        True,
        "Nesterov's form of momentum.",
        when=("optimizer", ("momentum",)),
    )
    weight_decay: float = recipe(
        1e-4,
        "lambda: lambda x w is added to the gradient of every weight w, except"
        " batch normalization's gamma and beta and the bias.",
        minimum=0.0,
        maximum=1.0,
    )
    clip_global_norm: float | None = recipe(
        None,
        "Greatest norm of the step's mean gradient, over all variables"
        " together and without weight decay; a longer one is scaled down to"
        " it. Default: no limit.",
        minimum=1e-6,
        maximum=1e6,
    )
    ema_decay: float | None = recipe(
        None,
        "Evaluate with a moving average of weights and running statistics, of"
        " which a step keeps this share. Checkpoints hold both. Default: with"
        " the weights themselves.",
        minimum=0.0,
        maximum=0.999999,
    )
    loss: str = recipe(
        "softmax",
        "What training minimises: softmax cross-entropy, or binary"
        " cross-entropy of every class, as the mean over classes. Evaluation"
        " always reports softmax cross-entropy of the plain labels, so that"
        " runs can be compared.",
        choices=("softmax", "bce"),
    )
    label_smoothing: float = recipe(
        0.0,
        "Share of the training target that is spread over all classes.",
        minimum=0.0,
        maximum=0.99,
    )
    bce_target_threshold: float | None = recipe(
        None,
        "With loss=bce, classes with a greater target, after mixing and"
        " smoothing, get the target 1 and the others 0. Default: targets as"
        " they are.",
        minimum=0.0,
        maximum=1.0,
        when=("loss", ("bce",)),
    )
    compression: str = recipe(
        "none",
        "Format of gradients on the wire: none, float32 as computed; fp16;"
        " bf16; or auto: fp16 where it makes an exchange of the gradients"
        " faster, as measured when the run starts. On CPUs the sums of bf16,"
        " and of fp16 within one host, are float32. Between hosts and on GPUs"
        " those of fp16 are float16, divided before the sum by about the root"
        " of the number of processes, so that gradients up to 1,000 cannot"
        " overflow on 2,048 of them. bf16 needs, on GPUs, a Horovod that can"
        " sum it (0.28.1 cannot: the run is refused).",
        choices=("none", "fp16", "bf16", "auto"),
    )
    transport: str = site(
        "auto",
        "What gradients travel by. auto: memory that the processes share, where"
        " all are on one host, without GPUs and --elastic, and tools/setup has"
        " compiled the operation for it; else Horovod. horovod: Horovod in any"
        " case.",
        choices=("auto", "horovod"),
    )
