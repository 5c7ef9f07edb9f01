"""What can be asked of `hvd_imagenet.doctor` besides the flags of a job."""

import dataclasses

from hvd_imagenet.knobs import Checked, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions(Checked):
    """What is written, and how long anything may take.

    Raises:
        ValueError: a value is outside its limits.
    """

    json_file: str | None = site(
        None,
        "Write findings and measurements as one JSON object to this file; -"
        " for standard output, without the table.",
    )
    timeout_seconds: int = site(
        300,
        "End with a failure when one step of the examination, such as waiting"
        " for the other processes, takes longer.",
        unit="seconds",
        minimum=5,
    )
