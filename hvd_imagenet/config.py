"""Every knob of a run, once: name, type, default, unit, limits and meaning.

A `Config` is what was asked for. A knob either belongs to the recipe, because
it changes the result of the training, or to the site: paths, threads, how
often something is written. Flags (`flags.py`), the text of recipes, the check
that a work directory is resumed with its own recipe and `--help` are all made
from these fields.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hvd_imagenet.knobs import Checked, recipe, site, value_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The network and its number formats."""

    model: str = recipe(
        "resnet50",
        "Network: ResNet v1.5 (stride in the 3x3 convolution).",
        choices=("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Where the images are and what is done to them."""

    data_dir: str | None = site(
        None,
        "Directory of the images, laid out as data_format says.",
    )
    data_format: str = site(
        "auto",
        "How data_dir is laid out; auto looks. tfrecord: train-*-of-* and"
        " validation-*-of-* (or val-*-of-*), ImageNet-format TFRecords. folder:"
        " train/CLASS/* and val/CLASS/* (or validation/), JPEG or PNG files, or"
        " val/* with validation_labels."
        " tfds: NAME/VERSION/* or NAME/CONFIG/VERSION/*, which TensorFlow"
        " Datasets has prepared as tfds_name in files of its formats tfrecord"
        " or array_record. synthetic makes images of its own and needs no"
        " data_dir.",
        choices=("auto", "tfrecord", "folder", "tfds", "synthetic"),
    )
    tfds_name: str = site(
        "imagenet2012",
        "Data set of data_format=tfds, as TensorFlow Datasets writes it: NAME,"
        " NAME:VERSION, NAME/CONFIG or NAME/CONFIG:VERSION. Without a version"
        " the newest that is prepared in data_dir. Its examples must have one"
        " image and one class label.",
    )
    tfds_train_split: str = site(
        "train",
        "Training images of data_format=tfds: a split or a part of one, such as"
        " train[:95%].",
    )
    tfds_validation_split: str | None = site(
        None,
        "As tfds_train_split, for validation. Default: the split validation, or"
        " test where there is none.",
    )
    train_images: int | None = site(
        None,
        "Number of training images to plan with when there is no data, and"
        " that of synthetic data. Default: counted in data_dir, or"
        " ImageNet's 1,281,167 without one.",
        unit="images",
        minimum=1,
    )
    validation_images: int | None = site(
        None,
        "As train_images, for the validation split. Default: counted in"
        " data_dir, or ImageNet's 50,000 without one.",
        unit="images",
        minimum=1,
    )
    validation_labels: str | None = site(
        None,
        "Text file with the labels of the images of val/ that are not in class"
        " folders: lines LABEL in the order of the sorted file names, or NAME"
        " LABEL; LABEL is a class folder of train/, or its place from 0 in the"
        " sorted list. Numbers of ImageNet's development kit are refused, as"
        " their order is another. Default: ImageNet's own labels, for files"
        " named ILSVRC2012_val_00000001.JPEG and so on.",
    )
    label_offset: int | None = site(
        None,
        "What TFRecords store for the first class in image/class/label. The"
        " well-known builder scripts count from 1, others from 0. Default: as a"
        " sample of the records proves; where it does not, the run is refused"
        " and asks for this flag.",
        minimum=0,
        maximum=1,
    )
    on_corrupt: str = site(
        "fail",
        "What to do about a record that cannot be read or decoded: stop and"
        " name it, or leave it out of loss and counts, name it and count it."
        " skip costs input speed, as every image is decoded under guard. Of a"
        " JPEG only the part that a crop needs is decoded, and damage elsewhere"
        " is not noticed.",
        choices=("fail", "skip"),
    )
    crop_area_min: float = recipe(
        0.08,
        "Least area of the random resized crop, as a share of the image.",
        minimum=0.001,
        maximum=1.0,
    )
    crop_area_max: float = recipe(
        1.0,
        "Greatest area of the random resized crop, as a share of the image.",
        minimum=0.001,
        maximum=1.0,
    )
    crop_aspect_min: float = recipe(
        3 / 4,
        "Least width over height of the random resized crop.",
        minimum=0.1,
        maximum=10.0,
    )
    crop_aspect_max: float = recipe(
        4 / 3,
        "Greatest width over height of the random resized crop.",
        minimum=0.1,
        maximum=10.0,
    )
    horizontal_flip: bool = recipe(
        True, "Mirror every other training image, at random."
    )
    evaluation_flip: bool = recipe(
        False,
        "Evaluate the mean of the logits of an image and of its mirror image.",
    )
    evaluation_image_size: int | None = recipe(
        None,
        "Side of the square images that are evaluated. Default: that of the"
        " training images at the end of the run.",
        unit="pixels",
        minimum=8,
        maximum=2048,
    )
    evaluation_resize: int | None = recipe(
        None,
        "Length of the shorter side before the central crop when evaluating."
        " Default: the side of the crop x 256/224, rounded.",
        unit="pixels",
        minimum=8,
        maximum=4096,
    )
    interpolation: str = recipe(
        "bilinear",
        "How images are resized, in training and evaluation.",
        choices=("bilinear", "bicubic"),
    )
    dct_method: str = recipe(
        "fast",
        "Inverse transform of the JPEG decoder, integer fast or integer"
        " accurate. Fast made two photographs darker by 0.7 to 0.8 of 255 grey"
        " levels on average; the values that reach the network differed by up"
        " to 5 at JPEG quality 90, by up to 14 at 96.",
        choices=("fast", "accurate"),
    )
    randaugment_layers: int | None = recipe(
        None,
        "Operations that RandAugment draws for every training image, each done"
        " with probability 0.5 (Cubuk 2019; timm's increasing operations)."
        " Default: no RandAugment.",
        unit="operations",
        minimum=1,
        maximum=10,
    )
    randaugment_magnitude: float | None = recipe(
        None,
        "Mean magnitude of RandAugment's operations, with randaugment_layers"
        " only.",
        minimum=0.0,
        maximum=10.0,
    )
    randaugment_magnitude_std: float | None = recipe(
        None,
        "Standard deviation of that magnitude, which is normal and clipped to"
        " 0 to 10; with randaugment_layers only.",
        minimum=0.0,
    )
    mixup_alpha: float | None = recipe(
        None,
        "Mixup (Zhang et al. 2018): every training image becomes lambda x"
        " itself + (1 - lambda) x another one of its micro-batch, and so does"
        " its target; lambda is of Beta(alpha, alpha), one for the micro-batch."
        " Default: not done.",
        minimum=0.01,
        maximum=100.0,
    )
    cutmix_alpha: float | None = recipe(
        None,
        "Cutmix (Yun et al. 2019): as mixup, but 1 - lambda is the area of a"
        " random box that is taken from the other image. With both, each"
        " is done to every other micro-batch, at random. Default: not done.",
        minimum=0.01,
        maximum=100.0,
    )
    input_threads: int = site(
        0,
        "Threads that read and decode images, per process. 0: the cores of"
        " the host divided by its processes.",
        unit="threads",
        minimum=0,
        maximum=1024,
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("crop_area", "crop_aspect"):
            least = getattr(self, f"{name}_min")
            greatest = getattr(self, f"{name}_max")
            if least > greatest:
                raise ValueError(
                    f"--{name}_min={least} is greater than"
                    f" --{name}_max={greatest}; lower one or raise the other."
                )
        randaugment = {
            f"--randaugment_{part}": getattr(self, f"randaugment_{part}")
            for part in ("layers", "magnitude", "magnitude_std")
        }
        given = [f"{k}={v}" for k, v in randaugment.items() if v is not None]
        missing = [k for k, v in randaugment.items() if v is None]
        if given and missing:
            raise ValueError(
                f"{', '.join(given)} without {', '.join(missing)}: RandAugment"
                " takes all three or none; add what is missing."
            )


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
        "Format of gradients in the allreduce: float32 as computed; fp16,"
        " divided before the sum by about the root of the number of processes,"
        " so that gradients up to 1,000 cannot overflow on 2,048 of them; or"
        " bf16, where the Horovod build can sum it (0.28.1 cannot: the run is"
        " refused).",
        choices=("none", "fp16", "bf16"),
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseConfig(Checked):
    """What changes at some epochs, from what the other flags say."""

    phase_epochs: tuple[float, ...] | None = recipe(
        None,
        "Epochs, counted from the start of the run, at which a new phase"
        " begins, with the step that begins then. Default: all of the run is"
        " one phase.",
        unit="epochs",
        minimum=0.001,
    )
    phase_image_sizes: tuple[int, ...] | None = recipe(
        None,
        "Values of image_size from phase_epochs on.",
        unit="pixels",
        minimum=8,
        maximum=2048,
    )
    phase_crop_area_min: tuple[float, ...] | None = recipe(
        None,
        "Values of crop_area_min from phase_epochs on.",
        minimum=0.001,
        maximum=1.0,
    )
    phase_global_batch_sizes: tuple[int, ...] | None = recipe(
        None,
        "Values of global_batch_size from phase_epochs on. The learning rate"
        " follows by the linear scaling rule.",
        unit="images",
        minimum=1,
    )
    phase_batch_sizes_per_process: tuple[int, ...] | None = recipe(
        None,
        "Values of batch_size_per_process from phase_epochs on.",
        unit="images",
        minimum=1,
    )

    def __post_init__(self):
        super().__post_init__()
        changes = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        if not changes:
            return
        epochs = changes.pop("phase_epochs", ())
        said = f"--phase_epochs={value_text(epochs)}"
        if not changes or not epochs:
            raise ValueError(
                f"{said} and what changes then, such as --phase_image_sizes,"
                " must be given together."
            )
        for name, values in changes.items():
            if len(values) != len(epochs):
                raise ValueError(
                    f"{said} and --{name}={value_text(values)} must have the"
                    " same number of values."
                )
        if list(epochs) != sorted(set(epochs)):
            raise ValueError(f"{said} must rise from each epoch to the next.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Seed, work directory and what is written when."""

    seed: int = recipe(
        0,
        "Seed of weights, data order and augmentation.",
        minimum=0,
        maximum=2**31 - 1,
    )
    workdir: str | None = site(
        None,
        "Directory of the run: recipe, plan, metrics, checkpoints,"
        " TensorBoard. A run found there is resumed.",
    )
    evaluation_every_epochs: int = site(
        1,
        "Evaluate after every so many epochs; the last is always evaluated.",
        unit="epochs",
        minimum=1,
    )
    evaluation_batch_size_per_process: int | None = site(
        None,
        "Images that one process evaluates at once. Default:"
        " batch_size_per_process.",
        unit="images",
        minimum=1,
    )
    checkpoint_steps: int = site(
        0,
        "Write a checkpoint every so many steps, besides those at epoch ends."
        " 0: only at epoch ends.",
        unit="steps",
        minimum=0,
    )
    keep_checkpoints: int = site(
        3, "Newest checkpoints to keep.", unit="files", minimum=1
    )
    log_steps: int = site(
        20,
        "Log loss, accuracy and speed every so many steps.",
        unit="steps",
        minimum=1,
    )
    dry_run: bool = site(
        False, "Print the plan of the run as one JSON object and exit."
    )
    world_size: int | None = site(
        None,
        "Number of processes to plan for, with --dry_run only. Default: those"
        " that were started.",
        unit="processes",
        minimum=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that was asked of a run.

    Raises:
        ValueError: a value is outside its limits, or two do not fit together;
            one sentence with the value, the limit and the remedy.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    phases: PhaseConfig = PhaseConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self):
        data, epochs = self.data, self.optimization.epochs
        for least in self.phases.phase_crop_area_min or ():
            if least > data.crop_area_max:
                raise ValueError(
                    f"--phase_crop_area_min={least} is greater than"
                    f" --crop_area_max={data.crop_area_max}; lower one or raise"
                    " the other."
                )
        resize, size = data.evaluation_resize, self.evaluation_image_size
        if resize is not None and resize < size:
            raise ValueError(
                f"--evaluation_resize={resize} is smaller than the crop of"
                f" {size} pixels (--evaluation_image_size); it must be at least"
                " as large."
            )
        begun = max(self.phases.phase_epochs or (0.0,))
        if begun >= epochs:
            raise ValueError(
                f"--phase_epochs has {begun:g}, which is not before the end at"
                f" --epochs={epochs}; leave that phase out or train longer."
            )
        if self.optimization.loss == "bce":
            self._require_useful_threshold()
        if self.run.world_size is not None and not self.run.dry_run:
            raise ValueError(
                f"--world_size={self.run.world_size} only plans; add --dry_run,"
                " or start that many processes with horovodrun -np."
            )

    def _require_useful_threshold(self):
        """It must part the label's target from that of the other classes."""
        threshold = self.optimization.bce_target_threshold
        smoothing = self.optimization.label_smoothing
        other = smoothing / self.model.num_classes
        label = 1.0 - smoothing + other
        if threshold is not None and not other <= threshold < label:
            raise ValueError(
                f"--bce_target_threshold={threshold} must be at least"
                f" {other:g} and less than {label:g}, the targets that"
                f" --label_smoothing={smoothing} gives an image's label and"
                " the other classes."
            )

    @property
    def evaluation_image_size(self) -> int:
        """Side in pixels of the images that are evaluated."""
        sizes = self.phases.phase_image_sizes or (self.model.image_size,)
        return self.data.evaluation_image_size or sizes[-1]

    def groups(self) -> Iterator[Any]:
        """The frozen groups of knobs, in the order of `--help`."""
        return (getattr(self, f.name) for f in dataclasses.fields(self))

    def recipe(self) -> dict[str, Any]:
        """Value by name of every knob that changes this run's result."""
        return {
            field.name: getattr(group, field.name)
            for group in self.groups()
            for field in dataclasses.fields(group)
            if field.metadata["knob"].recipe
            and field.metadata["knob"].applies(group)
        }


def require_same(
    saved: Mapping[str, Any], asked: Mapping[str, Any], where: str
) -> None:
    """Compares what a run was begun with and what is asked for now.

    Raises:
        ValueError: lists every difference.
    """
    # Through JSON, as `saved` was: tuples become lists.
    saved, asked = (json.loads(json.dumps(dict(f))) for f in (saved, asked))
    differences = [
        f"{name} was {saved.get(name)} and is {asked.get(name)} now"
        for name in sorted(saved.keys() | asked.keys())
        if saved.get(name) != asked.get(name)
    ]
    if differences:
        raise ValueError(
            f"{where} is of another recipe: {'; '.join(differences)}. Choose"
            " another --workdir, or ask for the same."
        )
