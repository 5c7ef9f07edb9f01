"""The knobs of batch, update rule, schedule and wire."""

import dataclasses

from hvd_imagenet.knobs import Checked, recipe, value_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationConfig(Checked):
    """Batch, update rule, schedule and the format of gradients on the wire."""

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
    base_learning_rate: float = recipe(
        0.1,
        "Learning rate for base_batch_size images per step. The linear scaling"
        " rule (Goyal 2017, section 2.1) makes the rate of the run:"
        " base_learning_rate x images per step / base_batch_size.",
        minimum=0.0,
        maximum=1000.0,
    )
    base_batch_size: int = recipe(
        256,
        "Images per step that base_learning_rate is for.",
        unit="images",
        minimum=1,
    )
    warmup: str = recipe(
        "gradual",
        "How the first warmup_epochs raise the rate from"
        " warmup_learning_rate: by a constant amount per step, not at all"
        " until they end, or no warmup (Goyal 2017, section 2.2). None is done"
        " where the rate to reach is no higher.",
        choices=("gradual", "constant", "none"),
    )
    warmup_epochs: float = recipe(
        5.0,
        "Length of the warmup.",
        unit="epochs",
        minimum=0.0,
        when=("warmup", ("gradual", "constant")),
    )
    warmup_learning_rate: float | None = recipe(
        None,
        "Learning rate that the warmup starts at. Default: base_learning_rate.",
        minimum=0.0,
        maximum=1000.0,
        when=("warmup", ("gradual", "constant")),
    )
    schedule: str = recipe(
        "steps",
        "Learning rate after the warmup: x decay_factor at every one of"
        " decay_epochs; half a cosine from the end of the warmup to zero at"
        " the end; a polynomial from there to end_learning_rate; the rate x"
        " piecewise_shares from piecewise_epochs on, constant or on a line in"
        " between; or constant.",
        choices=(
            "steps",
            "cosine",
            "polynomial",
            "piecewise_constant",
            "piecewise_linear",
            "constant",
        ),
    )
    decay_epochs: tuple[float, ...] = recipe(
        (30.0, 60.0, 80.0),
        "Epochs, counted from the start of the run, at which schedule=steps"
        " lowers the rate.",
        unit="epochs",
        minimum=0.0,
        when=("schedule", ("steps",)),
    )
    decay_factor: float = recipe(
        0.1,
        "What schedule=steps multiplies the rate by.",
        minimum=0.0,
        maximum=1.0,
        when=("schedule", ("steps",)),
    )
    polynomial_power: float = recipe(
        2.0,
        "Power of schedule=polynomial.",
        minimum=0.1,
        maximum=10.0,
        when=("schedule", ("polynomial",)),
    )
    end_learning_rate: float = recipe(
        0.0,
        "Learning rate that schedule=polynomial ends at; not scaled.",
        minimum=0.0,
        maximum=1000.0,
        when=("schedule", ("polynomial",)),
    )
    piecewise_epochs: tuple[float, ...] = recipe(
        (0.0,),
        "Epochs of piecewise_shares, counted from the start of the run. One"
        " that stands twice makes the rate jump.",
        unit="epochs",
        minimum=0.0,
        when=("schedule", ("piecewise_constant", "piecewise_linear")),
    )
    piecewise_shares: tuple[float, ...] = recipe(
        (1.0,),
        "Learning rates at piecewise_epochs, as shares of the rate by the"
        " linear scaling rule.",
        minimum=0.0,
        when=("schedule", ("piecewise_constant", "piecewise_linear")),
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

    def __post_init__(self):
        super().__post_init__()
        said = value_text(self.decay_epochs)
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            raise ValueError(
                f"--decay_epochs={said} must rise from each epoch to the next."
            )
        epochs = value_text(self.piecewise_epochs)
        shares = value_text(self.piecewise_shares)
        if not len(self.piecewise_epochs) == len(self.piecewise_shares) > 0:
            raise ValueError(
                f"--piecewise_epochs={epochs} and --piecewise_shares={shares}"
                " must have the same number of values, at least one."
            )
        if list(self.piecewise_epochs) != sorted(self.piecewise_epochs):
            raise ValueError(
                f"--piecewise_epochs={epochs} must not fall from one epoch to"
                " the next."
            )
        if self.warmup != "none" and self.warmup_epochs > self.epochs:
            raise ValueError(
                f"--warmup_epochs={self.warmup_epochs} is more than"
                f" --epochs={self.epochs}; shorten the warmup or train longer."
            )
