"""The knobs of what changes during a run."""

import dataclasses

from hvd_imagenet.knobs import Checked, recipe, value_text


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
