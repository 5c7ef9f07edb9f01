"""What was seen of a split: counts, sizes, labels and what is wrong."""

import array
import collections
import dataclasses
from typing import Any

import numpy as np

from hvd_imagenet import imagenet

# What is said of images by the kind of a finding, the worst first.
_SAID = {
    "unreadable": "cannot be read",
    "unparsable": "are no tf.train.Example with an image and a label",
    "undecodable": "cannot be decoded",
    "mislabelled": "have a label that is none of the classes",
    "duplicate": "are in the validation split, too",
}
_IMAGENET_IMAGES = {
    "train": imagenet.TRAIN_IMAGES,
    "validation": imagenet.VALIDATION_IMAGES,
}
_MEASURES = ("height", "width", "encoded_bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with an image.

    Attributes:
        kind: "unreadable", "unparsable", "undecodable", "mislabelled" or
            "duplicate".
        where: names the image.
        text: a sentence that says what is wrong.
    """

    kind: str
    where: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of one image; None where that could not be seen.

    Attributes:
        index: number of the image in its split.
        findings: what is wrong with it.
        label: counted from 0, whether there is such a class or not.
        digest: of the encoded image, the same for the same bytes only.
        encoded_bytes: length of the encoded image.
        file_format: format and mode, such as "JPEG RGB".
        height: in pixels.
        width: in pixels.
    """

    index: int
    findings: tuple[Finding, ...] = ()
    label: int | None = None
    digest: bytes | None = None
    encoded_bytes: int | None = None
    file_format: str | None = None
    height: int | None = None
    width: int | None = None


@dataclasses.dataclass(kw_only=True)
class SplitReport:
    """Adds up what is seen of the images of a split.

    Attributes:
        split: "train" or "validation".
        images: images that the split has.
        num_classes: classes that there should be.
        label_offset: number stored for the first class; None where labels are
            not stored but follow from folders.
        seconds: time taken, which who looks fills in.
        read: images looked at so far.
        findings: what is wrong with them.
        images_per_class: [num_classes] int64.
    """

    split: str
    images: int
    num_classes: int
    label_offset: int | None
    seconds: float = 0.0
    read: int = 0
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.images_per_class = np.zeros(self.num_classes, np.int64)
        self._formats = collections.Counter()
        self._measured = {name: array.array("q") for name in _MEASURES}
        self._labels: tuple[int, int] | None = None

    def add(self, look: Look, *more: Finding) -> None:
        """Counts an image, and what else was found wrong with it."""
        self.read += 1
        self.findings.extend((*look.findings, *more))
        if look.label is not None:
            least, greatest = self._labels or (look.label, look.label)
            self._labels = min(least, look.label), max(greatest, look.label)
            if 0 <= look.label < self.num_classes:
                self.images_per_class[look.label] += 1
        if look.file_format is not None:
            self._formats[look.file_format] += 1
            for name, values in self._measured.items():
                values.append(getattr(look, name))

    @property
    def is_complete(self) -> bool:
        """Whether every image of the split was looked at."""
        return self.read == self.images

    @property
    def empty_classes(self) -> list[int]:
        """Classes, from 0, of which no image was seen."""
        return np.flatnonzero(self.images_per_class == 0).tolist()

    @property
    def stored_labels(self) -> tuple[int, int] | None:
        """The least and the greatest label, as they are stored."""
        if self.label_offset is None or self._labels is None:
            return None
        least, greatest = self._labels
        return least + self.label_offset, greatest + self.label_offset

    def problems(self, listed: int) -> list[str]:
        """What a run must not be begun with, as sentences.

        Args:
            listed: findings of each kind that are named; more are counted.
        """
        problems = []
        for kind, said in _SAID.items():
            texts = [f.text for f in self.findings if f.kind == kind]
            if texts:
                problems.append(
                    f"{len(texts):,} of {self.read:,} {self.split} images"
                    f" {said}:{_listed(texts, listed)}"
                )
        problems.extend(self._offset_problem())
        if self.split == "train":
            problems.extend(self._empty(listed))
        return problems

    def warnings(self, listed: int) -> list[str]:
        """What may be meant, as sentences."""
        warnings = []
        expected = _IMAGENET_IMAGES[self.split]
        if self.num_classes == imagenet.CLASSES and self.images != expected:
            warnings.append(
                f"the {self.split} split has {self.images:,} images, and"
                f" ImageNet's {expected:,}."
            )
        if self.split != "train":
            warnings.extend(self._empty(listed))
        return warnings

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        stored = self.stored_labels
        return {
            "images": self.images,
            "read": self.read,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.speed, 1),
            "formats": dict(self._formats.most_common()),
            **{name: self._summary(name) for name in _MEASURES},
            "least_stored_label": stored and stored[0],
            "greatest_stored_label": stored and stored[1],
            "images_per_class": self.images_per_class.tolist(),
            "findings": [dataclasses.asdict(f) for f in self.findings],
        }

    def rows(self) -> dict[str, str]:
        """The lines of its column in the table for people."""
        stored = self.stored_labels
        seen = self.num_classes - len(self.empty_classes)
        per_class = self.images_per_class
        rows = {
            "images": f"{self.images:,}",
            "read": f"{self.read:,}",
            "images/s": f"{self.speed:,.0f}",
            "classes seen": f"{seen:,} of {self.num_classes:,}",
            "images per class": f"{per_class.min():,} to {per_class.max():,}",
            "stored labels": "{:,} to {:,}".format(*stored) if stored else "-",
            **{name: f"{n:,}" for name, n in self._formats.most_common()},
        }
        for name in _MEASURES:
            values = self._summary(name).values()
            label = name.replace("encoded_bytes", "bytes")
            rows[f"{label}, min/median/max"] = "/".join(
                "-" if value is None else f"{value:,}" for value in values
            )
        return rows

    @property
    def speed(self) -> float:
        """Images looked at per second."""
        return self.read / self.seconds if self.seconds else 0.0

    def _summary(self, name: str) -> dict[str, int | None]:
        values = np.array(self._measured[name], np.int64)
        if not len(values):
            return dict.fromkeys(("minimum", "median", "maximum"))
        return {
            "minimum": int(values.min()),
            "median": int(np.median(values)),
            "maximum": int(values.max()),
        }

    def _offset_problem(self) -> list[str]:
        """What the labels say of where they count from."""
        if self.stored_labels is None:
            return []
        least, greatest = self.stored_labels
        if least == 0 and greatest < self.num_classes:
            offset = 0
        elif least == 1 and greatest == self.num_classes:
            offset = 1
        else:
            return []
        if offset == self.label_offset:
            return []
        return [
            f"labels of the {self.split} split are {least:,} to {greatest:,},"
            f" so they count from {offset}; set --label_offset={offset}."
        ]

    def _empty(self, listed: int) -> list[str]:
        empty = self.empty_classes
        if not empty or not self.is_complete:
            return []
        return [
            f"{len(empty):,} of {self.num_classes:,} classes, counted from 0,"
            f" have no {self.split} image:"
            + _listed([f"class {number}" for number in empty], listed)
        ]


def table(reports: list[SplitReport]) -> str:
    """A column per split."""
    columns = [report.rows() for report in reports]
    names = list(dict.fromkeys(name for rows in columns for name in rows))
    lines = [["", *(report.split for report in reports)]]
    lines += [[n, *(rows.get(n, "0") for rows in columns)] for n in names]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        + "\n"
        for line in lines
    )


def _listed(texts: list[str], listed: int) -> str:
    lines = [f"\n  {text}" for text in texts[:listed]]
    if len(texts) > listed:
        lines.append(f"\n  and {len(texts) - listed:,} more.")
    return "".join(lines)
