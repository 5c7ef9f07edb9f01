"""What can be asked of `hvd_imagenet.report`."""

import dataclasses

from hvd_imagenet.knobs import Checked, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(Checked):
    """Where the report is written, and how runs are called in it.

    Raises:
        ValueError: a value is outside its limits.
    """

    output_dir: str | None = site(
        None,
        "Directory for report.html and its pictures; is made if it is not"
        " there. Default: report/ in the first RUN.",
    )
    names: tuple[str, ...] | None = site(
        None,
        "What each RUN is called, in their order. Default: the ends of their"
        " paths.",
    )
