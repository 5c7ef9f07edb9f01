"""What can be asked of `hvd_imagenet.benchmark` besides the flags of a job."""

import dataclasses

from hvd_imagenet.knobs import Checked, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(Checked):
    """What is measured, and for how long.

    Raises:
        ValueError: a value is outside its limits.
    """

    mode: str = site(
        "input",
        "input: from files to uint8 batches, by the pipeline of the training,"
        " with nobody to wait for.",
        choices=("input",),
    )
    steps: int = site(
        50,
        "Batches of batch_size_per_process that are measured, in each process.",
        unit="batches",
        minimum=1,
    )
    warmup_steps: int = site(
        10,
        "Batches before that, not measured.",
        unit="batches",
        minimum=1,
    )
