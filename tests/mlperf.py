"""MLPerf's logs, read and judged by mlcommons/logging."""

import pathlib

from mlperf_logging.compliance_checker import mlp_compliance, mlp_parser

# The last rules that have ResNet-50.
_RULES = "4.0.0"

SUBMITTER = (
    "--mlperf_log",
    "--submission_org=Example Laboratory",
    "--submission_platform=2 hosts",
    "--submission_division=closed",
    "--submission_status=onprem",
)

# Of a run that never was between 75.9 and 100 %.
TOO_LOW = "Failed checks for eval_accuracy"


def read(path: pathlib.Path) -> list[mlp_parser.ruleset_400.LogLine]:
    """The lines of a log, all of them whole."""
    lines, errors = mlp_parser.parse_file(str(path), ruleset=_RULES)
    assert errors == []
    return lines


def complaints(path: pathlib.Path) -> list[str]:
    """First lines of what the compliance checker says, warnings too."""
    checker = mlp_compliance.make_checker("training", _RULES, False, True)
    checker.check_file(str(path), f"training_{_RULES}/common.yaml")
    found = [*checker.overwritable.values(), *checker.not_overwritable]
    return sorted(message.partition("\n")[0] for message in found)
