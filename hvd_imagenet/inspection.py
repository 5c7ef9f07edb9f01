"""Looks at images of a source: at all of each, on many threads.

Training decodes the part of a JPEG that a crop needs, so it can come across a
damaged image many times before it fails.
"""

import collections
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from hvd_imagenet import tf_errors
from hvd_imagenet.config import Config
from hvd_imagenet.data_report import Finding, Look
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.preprocessing import make_preprocessing, parse_example
from hvd_imagenet.sources import Source

# How long to wait for one image.
PATIENCE_SECONDS = 120
# Looks that are begun before the first of them is taken, per thread.
_AHEAD = 4
_DIGEST_BYTES = 16


class StalledReadError(Exception):
    """The storage does not answer; says for which image."""


class Inspector:
    """Looks at the images of a split.

    Attributes:
        label_offset: number that records store for the first class; None if
            they store no labels.
    """

    def __init__(self, source: Source, config: Config):
        self._source = source
        features = source.features
        self.label_offset = features and features.label_offset
        self._classes = config.model.num_classes
        preprocessing = make_preprocessing(config.data, config.model.image_size)
        self._parse = _Graph(lambda record: parse_example(record, features))
        self._shape = _Graph(
            lambda encoded: tf.shape(preprocessing.whole_image(encoded))
        )

    def look(self, index: int) -> Look:
        """Reads, parses and decodes one image."""
        try:
            encoded, label = self._source.read(index)
        except CorruptRecordError as error:
            finding = Finding(
                kind="unreadable",
                where=self._source.where(index),
                text=str(error),
            )
            return Look(index=index, findings=(finding,))
        if self.label_offset is not None:
            try:
                encoded, label = (t.numpy() for t in self._parse(encoded))
            except tf_errors.ERRORS as error:
                finding = self._unusable("unparsable", index, error)
                return Look(index=index, findings=(finding,))
        findings = []
        if not 0 <= label < self._classes:
            findings.append(self._mislabelled(index, label))
        height = width = file_format = None
        try:
            height, width, _ = map(int, self._shape(encoded).numpy())
            file_format = _file_format(encoded)
        except tf_errors.ERRORS as error:
            findings.append(self._unusable("undecodable", index, error))
        return Look(
            index=index,
            findings=tuple(findings),
            label=int(label),
            digest=hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest(),
            encoded_bytes=len(encoded),
            file_format=file_format,
            height=height,
            width=width,
        )

    def looks(self, indices: Sequence[int], threads: int) -> Iterator[Look]:
        """Looks at images one after the other, many at a time.

        Raises:
            StalledReadError: one took longer than `PATIENCE_SECONDS`.
        """
        pool = futures.ThreadPoolExecutor(threads)
        begun = collections.deque()
        try:
            for index in indices:
                begun.append((index, pool.submit(self.look, int(index))))
                if len(begun) > _AHEAD * threads:
                    yield self._take(*begun.popleft())
            while begun:
                yield self._take(*begun.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, index: int, future: futures.Future) -> Look:
        try:
            return future.result(PATIENCE_SECONDS)
        except futures.TimeoutError as error:
            raise StalledReadError(
                f"{self._source.where(int(index))} was not read within"
                f" {PATIENCE_SECONDS} s; see whether its storage answers."
            ) from error

    def _unusable(self, kind: str, index: int, error: Exception) -> Finding:
        where = self._source.where(index)
        return Finding(
            kind=kind,
            where=where,
            text=f"{where} cannot be used: {tf_errors.reason(error)}.",
        )

    def _mislabelled(self, index: int, label: int) -> Finding:
        where = self._source.where(index)
        first = self.label_offset or 0
        return Finding(
            kind="mislabelled",
            where=where,
            text=f"{where} has the label {label + first}, outside {first} to"
            f" {self._classes - 1 + first}.",
        )


class _Graph:
    """A function of one string, which threads run side by side."""

    def __init__(self, function: Callable[[tf.Tensor], Any]):
        self._function = function
        self._graph = tf.function(
            function,
            input_signature=[tf.TensorSpec([], tf.string)],
            autograph=False,
        )

    def __call__(self, text: bytes) -> Any:
        try:
            return self._graph(tf.constant(text))
        except tf_errors.ERRORS:
            # Fails again, and says why without the graph around it.
            return self._function(tf.constant(text))


def sample(length: int, count: int, seed: int) -> np.ndarray:
    """`count` of `length` images, one at random of each of as many parts.

    Args:
        length: images of a split.
        count: images wanted; all there are, if these are no more.
        seed: another one, others of them.

    Returns:
        [min(count, length)] int64, rising.
    """
    count = min(count, length)
    ends = np.arange(count + 1) * length // count
    random = np.random.Philox(key=[seed, length]).random_raw(count)
    places = random % np.diff(ends).astype(np.uint64)
    return ends[:-1] + places.astype(np.int64)


def _file_format(encoded: bytes) -> str:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            mode = "greyscale" if image.mode == "L" else image.mode
            return f"{image.format} {mode}"
    except (OSError, ValueError, Image.DecompressionBombError):
        return "other"
