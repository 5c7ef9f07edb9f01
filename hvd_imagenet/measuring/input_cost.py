"""How many images a second the input pipeline makes, and what they cost.

Rates are by the clock, shares by the processor time of this process, which
does not depend on what else the machine does.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from hvd_imagenet import dataset, reading
from hvd_imagenet.config import Config
from hvd_imagenet.decoding import decode_window
from hvd_imagenet.pipeline import Pipeline
from hvd_imagenet.plan import Plan
from hvd_imagenet.preprocessing import draw, random_window
from hvd_imagenet.sources import Source
from hvd_imagenet.streaming import StreamedSource
from hvd_imagenet.world import World

# Images that are decoded again and again from memory, and how often.
_IMAGES = 512
_TIMES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a number of images took.

    Attributes:
        images: number of images.
        seconds: by the clock.
        cpu_seconds: of all threads of this process.
    """

    images: int
    seconds: float
    cpu_seconds: float


def measure(
    config: Config,
    plan: Plan,
    source: Source,
    world: World,
    *,
    threads: int,
    steps: int,
    warmup_steps: int,
) -> dict[str, Any]:
    """Measures the training images of this process.

    Args:
        config: of the run.
        plan: its plan; batches are those of its first phase.
        source: training images.
        world: the place of this process.
        threads: threads of the pipeline.
        steps: micro-batches to measure.
        warmup_steps: micro-batches before.

    Returns:
        "images_per_second", by the clock; "images_per_cpu_second";
        "read_share" of the processor time, to read and check records, and to
        find the images in them;
        "decode_share", to decode the parts of images that the crops need, and
        with the compiled operation to draw, resize and flip those as well;
        "other_share", to hand images to TensorFlow, batch and all the rest;
        "bytes_per_image", as read. Of images that are read in streams
        only the rates.
    """
    batch_size = plan.phase(0).batch_size_per_process
    # Nobody keeps the batches: they would be made in the background still.
    whole = _cost(
        dataset.training_batches(config, plan, source, world, threads=threads),
        batch_size,
        warmup_steps,
        steps,
    )
    rates = {
        "images_per_second": whole.images / whole.seconds,
        "images_per_cpu_second": whole.images / whole.cpu_seconds,
    }
    if isinstance(source, StreamedSource):
        return rates  # A stream is read once, not again and again.
    access = dataset.training_access(config, plan, source, world)
    pipeline = dataset.training_pipeline(
        config, plan, access, world, plan.phase(0)
    )
    numbers = range(-(-_IMAGES // batch_size))
    read_seconds, bytes_per_image = _reading(pipeline, numbers)
    per_image = whole.cpu_seconds / whole.images
    shares = {
        "read_share": read_seconds / per_image,
        "decode_share": _decoding(config, pipeline, numbers) / per_image,
    }
    return {
        **rates,
        **shares,
        "other_share": 1.0 - sum(shares.values()),
        "bytes_per_image": bytes_per_image,
    }


def _cost(batches: Iterable[Any], size: int, before: int, count: int) -> Cost:
    """What the batches after the first ones take."""
    iterator = iter(batches)
    for _ in itertools.islice(iterator, before):
        pass
    seconds, cpu_seconds = time.perf_counter(), time.process_time()
    taken = sum(1 for _ in itertools.islice(iterator, count))
    return Cost(
        images=taken * size,
        seconds=time.perf_counter() - seconds,
        cpu_seconds=time.process_time() - cpu_seconds,
    )


def _reading(pipeline: Pipeline, numbers: range) -> tuple[float, float]:
    """Processor seconds and bytes of a record of these batches."""
    batches = [pipeline.order(number)[0] for number in numbers]
    count = sum(map(len, batches))
    length = sum(
        len(pipeline.source.read(int(index))[0])
        for indices in batches
        for index in indices
    )
    reader = pipeline.reader(skip=False)
    begun = time.process_time()
    for _ in range(_TIMES):
        for indices in batches:
            reader.read(indices)
    seconds = time.process_time() - begun
    return seconds / _TIMES / count, length / count


def _decoding(config: Config, pipeline: Pipeline, numbers: range) -> float:
    """Processor seconds of an image for "decode_share"."""
    reader = pipeline.reader(skip=False)
    if pipeline.prepare_batch is not None:
        batches = reading.batches(reader, pipeline.order, numbers)
        return _in_memory_seconds(batches, _crop(pipeline)) / len(
            pipeline.order(numbers.start)[0]
        )
    data = config.data

    def with_window(by_row, buffer):
        row = reading.Row(*by_row, buffer)
        windows = []

        def choose(shape):
            windows.append(random_window(shape, draw(row.seed)[0], data))
            return windows[-1]

        decode_window(
            row.encoded, row.pixels(), choose, dct_method=data.dct_method
        )
        return row.encoded, row.pixels(), windows[-1]

    def decode(encoded, pixels, window):
        image = decode_window(
            encoded, pixels, lambda shape: window, dct_method=data.dct_method
        )
        return tf.cast(image[0, 0, 0], tf.int64)

    rows = reading.rows(reader, pipeline.order, numbers)
    return _in_memory_seconds(rows.map(with_window), decode)


def _crop(pipeline: Pipeline) -> Callable[..., tf.Tensor]:
    def crop(rows: reading.Row) -> tf.Tensor:
        crops = pipeline.prepare_batch(rows.images(), rows.seed, 1, False)
        return tf.cast(crops.images[0, 0, 0, 0], tf.int64)

    return crop


def _in_memory_seconds(
    elements: tf.data.Dataset, function: Callable[..., tf.Tensor]
) -> float:
    """Processor seconds that a function to [] int64 takes of an element."""
    in_memory = elements.cache()
    # The first pass fills the memory.
    count = int(in_memory.reduce(np.int64(0), lambda count, *_: count + 1))

    def seconds(function) -> float:
        repeated = in_memory.repeat(_TIMES).map(function)
        begun = time.process_time()
        repeated.reduce(np.int64(0), lambda total, value: total + value)
        return (time.process_time() - begun) / _TIMES / count

    return seconds(function) - seconds(lambda *_: np.int64(1))
