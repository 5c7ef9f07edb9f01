"""Both splits of a data set: how much is looked at, and what was found.

The part of `check_data` that does not know of flags and files.
"""

import dataclasses
import json
import os
import sys
import time

from hvd_imagenet import splits
from hvd_imagenet.config import Config
from hvd_imagenet.data_report import Finding, Look, SplitReport
from hvd_imagenet.knobs import Checked, site
from hvd_imagenet.sources import Source

_TERMINAL_SECONDS = 0.2  # Between two lines of progress.
_LOG_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions(Checked):
    """How much is read, and what is told of it."""

    full: bool = site(
        False,
        "Read every image. Only then it is known that no class is empty and"
        " that no validation image is among the training images.",
    )
    sample_images: int = site(
        4096,
        "Images of each split that are read without full: one at random of"
        " each of as many equal parts, by seed.",
        unit="images",
        minimum=1,
    )
    list_findings: int = site(
        10,
        "Images that are named for each kind of trouble; the others are"
        " counted. The JSON file names all.",
        unit="images",
        minimum=1,
    )
    json_file: str | None = site(
        None, "File that gets the report as one JSON object."
    )


class Check:
    """Both splits of a data set, as far as they were looked at.

    Attributes:
        reports: what was seen, by split.
        errors: what kept more from being seen, as sentences.
        is_interrupted: whether Ctrl-C did.
    """

    def __init__(self, config: Config, options: CheckOptions):
        self._config = config
        self._options = options
        self._validation: dict[bytes, str] = {}
        self.reports: dict[str, SplitReport] = {}
        self.errors: list[str] = []
        self.is_interrupted = False

    def run(self) -> None:
        """Looks at both splits, until Ctrl-C."""
        try:
            # The smaller one first, as it is kept to compare the other with.
            sources = {
                split: source
                for split in ("validation", "train")
                if (source := self._open(split)) is not None
            }
            self._settle_labels(list(sources.values()))
            for split, source in sources.items():
                self._look_at(split, source)
        except KeyboardInterrupt:
            self.is_interrupted = True

    def problems(self) -> list[str]:
        """What a run must not be begun with, as sentences."""
        listed = self._options.list_findings
        found = (report.problems(listed) for report in self.reports.values())
        return [text for texts in found for text in texts]

    def warnings(self) -> list[str]:
        """What may be meant, as sentences."""
        listed = self._options.list_findings
        found = (report.warnings(listed) for report in self.reports.values())
        return [text for texts in found for text in texts]

    def as_json(self, is_finished: bool) -> str:
        """All that is known, as one JSON object."""
        facts = {
            "finished": is_finished and not self.is_interrupted,
            "errors": self.errors,
            "problems": self.problems(),
            "warnings": self.warnings(),
            "splits": {k: v.as_dict() for k, v in self.reports.items()},
        }
        return json.dumps(facts, indent=1) + "\n"

    def _open(self, split: str) -> Source | None:
        try:
            return splits.open_split(self._config, split)
        except ValueError as error:
            if str(error) not in self.errors:
                self.errors.append(str(error))
        except OSError as error:
            self.errors.append(f"{error.filename}: {error.strerror}.")
        return None

    def _settle_labels(self, sources: list[Source]) -> None:
        # TensorFlow takes seconds to start: not for --help.
        from hvd_imagenet import label_offset

        try:
            if sources:
                label_offset.settle(sources, self._config.model.num_classes)
        except ValueError as error:
            self.errors.append(str(error))
            # The rest of what is wrong is worth to know.
            for source in sources:
                source.count_labels_from(1, "assumed")

    def _look_at(self, split: str, source: Source) -> None:
        from hvd_imagenet import inspection

        inspector = inspection.Inspector(source, self._config)
        report = SplitReport(
            split=split,
            images=len(source),
            num_classes=self._config.model.num_classes,
            label_offset=inspector.label_offset,
        )
        self.reports[split] = report
        count = len(source)
        if not self._options.full:
            count = min(count, self._options.sample_images)
        indices = inspection.sample(len(source), count, self._config.run.seed)
        threads = self._config.data.input_threads or len(
            os.sched_getaffinity(0)
        )
        start = time.monotonic()
        progress = _Progress(report, count)
        looks = inspector.looks(indices, threads)
        try:
            for look in looks:
                report.add(look, *self._duplicate(split, source, look))
                report.seconds = time.monotonic() - start
                progress.show()
        except inspection.StalledReadError as error:
            self.errors.append(str(error))
        finally:
            looks.close()
            progress.close()

    def _duplicate(
        self, split: str, source: Source, look: Look
    ) -> list[Finding]:
        """Notes a validation image; finds it among the training images."""
        if look.digest is None:
            return []
        if split == "validation":
            self._validation[look.digest] = source.where(look.index)
            return []
        if look.digest not in self._validation:
            return []
        where = source.where(look.index)
        other = self._validation[look.digest]
        text = f"{where} has the same bytes as {other}."
        return [Finding(kind="duplicate", where=where, text=text)]


class _Progress:
    """A line on a terminal that is rewritten; one at times elsewhere."""

    def __init__(self, report: SplitReport, count: int):
        self._report = report
        self._count = count
        self._is_terminal = sys.stderr.isatty()
        self._seconds = _TERMINAL_SECONDS if self._is_terminal else _LOG_SECONDS
        self._shown = 0.0

    def show(self) -> None:
        report = self._report
        if report.seconds - self._shown < self._seconds:
            return
        self._shown = report.seconds
        left = (self._count - report.read) / report.speed
        text = (
            f"{report.split}: {report.read:,} of {self._count:,} images,"
            f" {report.speed:,.0f} images/s, {left:,.0f} s left,"
            f" {len(report.findings):,} findings"
        )
        sys.stderr.write(
            f"\r\033[K{text}" if self._is_terminal else f"{text}\n"
        )
        sys.stderr.flush()

    def close(self) -> None:
        """Leaves an empty line for what comes next."""
        if self._is_terminal:
            sys.stderr.write("\r\033[K")
