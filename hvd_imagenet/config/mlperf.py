"""The knobs of MLPerf's log: whether there is one, and who submits it."""

import dataclasses

from hvd_imagenet.knobs import Checked, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPerfConfig(Checked):
    """MLPerf's log of a run, and what only its submitter knows."""

    mlperf_log: bool = site(
        False,
        "Write WORKDIR/mlperf.log, the run's lines in MLPerf's format for"
        " ResNet-50 (training 4.0, the last round that had it). The clock"
        " starts before any data is touched, and goes on while a run that will"
        " be resumed is not running; the log ends with status success at the"
        " evaluation that reaches 75.9 % top-1, the training as planned. Values"
        " are those of the run, whether the rules allow them or not; caches are"
        " not cleared. Needs the package mlperf-logging: pip install"
        " hvd_imagenet[mlperf].",
    )
    submission_org: str | None = site(
        None,
        "Organisation that submits, for mlperf_log, which has no such line"
        " without it.",
    )
    submission_platform: str | None = site(
        None,
        "Name of the system, for mlperf_log, which has no such line without"
        " it.",
    )
    submission_division: str = site(
        "open",
        "Division of mlperf_log. closed asks for MLPerf's own model, input and"
        " update rule.",
        choices=("closed", "open"),
    )
    submission_status: str = site(
        "research",
        "Availability of the system, for mlperf_log.",
        choices=("cloud", "onprem", "preview", "research"),
    )
