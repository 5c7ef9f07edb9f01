"""The manifest of a packed data set: what it is, and how to check it."""

import collections
import json
import os
from collections.abc import Sequence
from typing import Any

from hvd_imagenet.packed_sets import FORMAT_VERSION, NAME
from hvd_imagenet.packing.records import LABEL_OFFSET
from hvd_imagenet.packing.shards import Report, temporary_path


def make(
    facts: dict[str, Any], reports_by_split: dict[str, Sequence[Report]]
) -> dict[str, Any]:
    """The manifest, plain for JSON.

    Args:
        facts: the settings and the source.
        reports_by_split: all shards of a split, in order.
    """
    classes = facts["settings"]["num_classes"]
    names: dict[int, list[str]] = {}
    for reports in reports_by_split.values():
        for report in reports:
            for label, known in report.class_names.items():
                names.setdefault(int(label), known)
    return {
        "format_version": FORMAT_VERSION,
        **facts,
        "label_offset": LABEL_OFFSET,
        "classes": [
            {"label": label, "synset": synset, "text": text}
            for label, (synset, text) in sorted(names.items())
        ],
        "splits": {
            split: _split(reports, classes)
            for split, reports in reports_by_split.items()
        },
    }


def write(output_dir: str, content: dict[str, Any]) -> None:
    """Writes it, whole or not at all."""
    temporary = temporary_path(output_dir, NAME)
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, os.path.join(output_dir, NAME))


def _split(reports: Sequence[Report], classes: int) -> dict[str, Any]:
    counts = collections.Counter()
    for report in reports:
        counts.update(report.class_counts)
    return {
        "records": sum(report.records for report in reports),
        "bytes": sum(report.bytes for report in reports),
        "source_bytes": sum(report.source_bytes for report in reports),
        "copied": sum(report.copied for report in reports),
        # By label, counted from 0.
        "class_counts": [counts[str(label)] for label in range(classes)],
        "skipped": [name for report in reports for name in report.skipped],
        "shards": [
            {
                "file": report.file,
                "bytes": report.bytes,
                "records": report.records,
                "crc32c": report.crc32c,
            }
            for report in reports
        ],
    }
