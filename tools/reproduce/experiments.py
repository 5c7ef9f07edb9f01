"""What is measured: the papers' claims, and the runs that test each."""

import dataclasses

_GOYAL = "flags/small/goyal2017.flags"
_LARS = "flags/small/you2017_lars.flags"
_AKIBA = "flags/small/akiba2017.flags"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes:
        name: of its files; two variants of one name are the same runs.
        label: in tables.
        flagfile: recipe, from the root of the repository.
        flags: what differs from the recipe.
        change: what `train_changed` changes in the trainer; None for the
            trainer as it is.
        processes: ranks; one runs without a launcher.
    """

    name: str
    label: str
    flagfile: str = _GOYAL
    flags: tuple[str, ...] = ()
    change: str | None = None
    processes: int = 1


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Variants to compare; the first one is what others are compared with."""

    name: str
    variants: tuple[Variant, ...]


def _batch(images: int, label: str | None = None, **changes) -> Variant:
    changes = {"flags": (f"--global_batch_size={images}",)} | changes
    label = label or f"{images} images per step"
    return Variant(f"batch{images}", label, **changes)


def _last(images: int, label: str) -> Variant:
    """Evaluated with the statistics of the last step's micro-batches."""
    flags = (f"--global_batch_size={images}", "--batch_norm_momentum=0")
    return Variant(f"last_statistics{images}", label, flags=flags)


BATCHES = (32, 64, 128, 256, 512, 1024)
# Where a mistake shows: the largest minibatch but one. Its rate is 16 times
# that of the reference of 32 images.
_LARGE = 512
_TIMES = _LARGE // 32
# Beyond the knee.
_BEYOND = 1024
_RANKS = 128

_REFERENCE = _batch(_LARGE, "as Goyal")

EXPERIMENTS = (
    Experiment("minibatch", tuple(_batch(images) for images in BATCHES)),
    Experiment(
        "warmup",
        (
            dataclasses.replace(_REFERENCE, label="gradual warmup"),
            Variant(
                "constant_warmup",
                "constant warmup",
                flags=("--warmup=constant",),
            ),
            Variant("no_warmup", "no warmup", flags=("--warmup=none",)),
        ),
    ),
    Experiment(
        "gamma32",
        (
            _batch(32, "gamma begins at 0, 32 images per step"),
            Variant(
                "gamma_one32",
                "at 1",
                flags=("--global_batch_size=32", "--zero_gamma=false"),
            ),
        ),
    ),
    Experiment(
        "gamma512",
        (
            _batch(_LARGE, "gamma begins at 0, 512 images per step"),
            Variant("gamma_one", "at 1", flags=("--zero_gamma=false",)),
        ),
    ),
    Experiment(
        "pitfalls",
        (
            _REFERENCE,
            Variant(
                "rate_in_buffer",
                "no momentum correction",
                change="rate_in_buffer",
            ),
            Variant(
                "batch_norm_decay",
                "weight decay on gamma and beta",
                change="batch_norm_decay",
            ),
            Variant(
                "loss_scaled",
                f"loss x {_TIMES} instead of the rate",
                # All rates a sixteenth, the warmup's too.
                flags=(
                    f"--base_batch_size={_LARGE}",
                    f"--warmup_learning_rate={0.0125 / _TIMES}",
                ),
                change=f"loss_times={_TIMES}",
            ),
            Variant(
                "loss_not_divided",
                f"loss x {_TIMES} and the rate x {_TIMES}",
                change=f"loss_times={_TIMES}",
            ),
        ),
    ),
    Experiment(
        "optimizers",
        (
            _last(_BEYOND, "momentum SGD"),
            Variant("lars", "LARS", _LARS, flags=("--batch_norm_momentum=0",)),
            Variant(
                "rmsprop_warmup",
                "RMSprop warm-up and slow start",
                _AKIBA,
                flags=("--batch_norm_momentum=0",),
            ),
        ),
    ),
    Experiment(
        "statistics512",
        (
            _batch(_LARGE, "moving averages, 512 images per step"),
            _last(_LARGE, "last minibatch's"),
        ),
    ),
    Experiment(
        "statistics1024",
        (
            _batch(_BEYOND, "moving averages, 1,024 images per step"),
            _last(_BEYOND, "last minibatch's"),
        ),
    ),
    Experiment(
        "ranks",
        (
            _batch(_RANKS, "1 process, accumulating 4 micro-batches"),
            Variant(
                "ranks2",
                "2 ranks, accumulating 2",
                flags=(f"--global_batch_size={_RANKS}",),
                processes=2,
            ),
            Variant(
                "ranks4",
                "4 ranks",
                flags=(f"--global_batch_size={_RANKS}",),
                processes=4,
            ),
            Variant(
                "ranks2_fp16",
                "2 ranks, gradients as fp16 on the wire",
                flags=(f"--global_batch_size={_RANKS}", "--compression=fp16"),
                processes=2,
            ),
        ),
    ),
)
