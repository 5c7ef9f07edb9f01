"""The knobs of the learning rate: scaling, warmup and what follows it."""

import dataclasses

from hvd_imagenet.knobs import Checked, recipe, value_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Checked):
    """The learning rate of every step."""

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
