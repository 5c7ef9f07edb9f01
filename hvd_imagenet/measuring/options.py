"""What can be asked of `hvd_imagenet.benchmark` besides the flags of a job."""

import dataclasses

from hvd_imagenet.knobs import Checked, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(Checked):
    """What is measured, and for how long.

    Raises:
        ValueError: a value is outside its limits, or two do not fit together.
    """

    mode: str = site(
        "train",
        "train: steps of the training, with and without exchange of gradients."
        " input: from files to uint8 batches, by the pipeline of the training,"
        " with nobody to wait for. allreduce: averages of tensors of several"
        " sizes and of the model's gradients, over several processes. scaling:"
        " mode=train in worlds of 1, 2, 4 and so on up to all processes of"
        " --hosts, which it starts itself.",
        choices=("train", "input", "allreduce", "scaling"),
    )
    steps: int = site(
        50,
        "What is measured, in each process: steps, and as many without"
        " exchange; batches of batch_size_per_process with mode=input; averages"
        " of each kind with mode=allreduce, fewer where they take long.",
        unit="steps",
        minimum=1,
    )
    warmup_steps: int = site(
        10,
        "As many before that, not measured.",
        unit="steps",
        minimum=1,
    )
    largest_mib: int = site(
        128,
        "Largest tensor of mode=allreduce.",
        unit="MiB",
        minimum=1,
        maximum=8192,
    )
    profile_dir: str | None = site(
        None,
        "Directory for a TensorBoard profile of rank 0's next steps after the"
        " measured ones, with mode=train.",
    )
    timeline_file: str | None = site(
        None,
        "File for Horovod's timeline of the next steps after the measured"
        " ones, as Chrome's traces, with mode=train.",
    )
    report_dir: str | None = site(
        None,
        "Directory for scaling.json, scaling.png and the logs of mode=scaling.",
    )
    timeout_seconds: int = site(
        1800,
        "What every world of mode=scaling has to end in.",
        unit="seconds",
        minimum=10,
    )
    host_slots: int | None = site(
        None,
        "Processes that every host is meant for: where fewer are started, each"
        " has only the share of cores that it would have among all of them."
        " Default: those that are started.",
        unit="processes",
        minimum=1,
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("profile_dir", "timeline_file"):
            value = getattr(self, name)
            if value is not None and self.mode != "train":
                raise ValueError(
                    f"--{name}={value} is of a training step; add --mode=train"
                    " or leave it out."
                )
        if (self.report_dir is None) == (self.mode == "scaling"):
            raise ValueError(
                f"--mode={self.mode} and --report_dir={self.report_dir} do not"
                " fit: mode=scaling writes a report, and no other mode does."
            )
