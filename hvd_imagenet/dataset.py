"""A plan and a source made into the batches of a rank.

Every rank reads its own micro-batches and no others. Which images those are is
arithmetic, also where they are read in streams, so there is no state to save.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvd_imagenet import mixing, order
from hvd_imagenet.batches import Batches
from hvd_imagenet.config import Config
from hvd_imagenet.evaluation_plan import EvaluationPlan
from hvd_imagenet.phases import Phase
from hvd_imagenet.pipeline import Batch, Pipeline
from hvd_imagenet.plan import Plan
from hvd_imagenet.preprocessing import make_preprocessing
from hvd_imagenet.sources import Source
from hvd_imagenet.stream_order import StreamOrder
from hvd_imagenet.streaming import StreamedSource, StreamReader
from hvd_imagenet.world import World

_PREFETCH_BATCHES = 3


class Access(NamedTuple):
    """How a rank comes to its images.

    Attributes:
        source: what reads them.
        images_at: (images, epochs), both [n] int64, at n consecutive positions
            of the stream of epochs that this rank has in the plan.
        close: ends what it does in the background.
    """

    source: Source
    images_at: Callable[[range], tuple[np.ndarray, np.ndarray]]
    close: Callable[[], None] = lambda: None


def training_access(
    config: Config,
    plan: Plan,
    source: Source,
    world: World,
    *,
    first_step: int = 0,
) -> Access:
    """Access to what a rank trains on from `first_step` on."""
    seed = config.run.seed
    if isinstance(source, StreamedSource):
        return _stream_access(
            source,
            plan.rows_before,
            world,
            first_position=plan.images_before(first_step),
            seed=seed,
            buffer_size=config.data.shuffle_buffer_size,
        )
    return Access(
        source, lambda rows: order.images_at(rows, seed, plan.train_images)
    )


def _stream_access(
    source: StreamedSource,
    rows_before: Callable[[int, int], int],
    world: World,
    *,
    first_position: int,
    seed: int,
    buffer_size: int,
) -> Access:
    images = len(source)
    stream = StreamOrder(
        source.parts,
        rows_before=lambda epochs, rank: rows_before(epochs * images, rank),
        rank=world.rank,
        seed=seed,
        buffer_size=buffer_size,
    )
    first_row = rows_before(first_position, world.rank)
    reader = StreamReader(source, stream, first_row)

    def images_at(positions: range) -> tuple[np.ndarray, np.ndarray]:
        first = rows_before(positions.start, world.rank)
        return reader.promise(range(first, first + len(positions)))

    return Access(reader, images_at, reader.close)


def training_batches(
    config: Config,
    plan: Plan,
    source: Source,
    world: World,
    *,
    threads: int,
    first_step: int = 0,
) -> Batches:
    """The micro-batches of a rank, from `first_step` to the end of the run.

    Every step takes its `accumulation_steps` of them.
    """
    phases = plan.phases.phases
    ends = [*(phase.first_step for phase in phases[1:]), plan.total_steps]
    access = training_access(config, plan, source, world, first_step=first_step)
    datasets, origins = [], []
    for phase, end in zip(phases, ends, strict=True):
        pipeline = training_pipeline(config, plan, access, world, phase)
        first = max(first_step, phase.first_step)
        numbers = range(
            first * phase.accumulation_steps, end * phase.accumulation_steps
        )
        datasets.append(
            pipeline.dataset(numbers, phase.batch_size_per_process, threads)
        )
        origins.append((pipeline, numbers))
    dataset = functools.reduce(tf.data.Dataset.concatenate, datasets)
    return Batches(_with_options(dataset, threads), origins, access.close)


def training_pipeline(
    config: Config, plan: Plan, access: Access, world: World, phase: Phase
) -> Pipeline:
    """Makes batch `step * accumulation_steps + index` of a phase."""
    seed = config.run.seed

    def micro_batch(number: int) -> range:
        step, index = divmod(number, phase.accumulation_steps)
        return plan.micro_batch(step, index, world.rank)

    def order_of(number: int) -> tuple[np.ndarray, np.ndarray]:
        images, epochs = access.images_at(micro_batch(number))
        # One stream of random numbers per seed, epoch and image, whatever the
        # rank or the thread.
        return images, np.stack([(seed << 32) + epochs, images], axis=1)

    def draw(number: int) -> np.ndarray:
        return mixing.draw(config.data, seed, micro_batch(number).start)

    data = dataclasses.replace(config.data, crop_area_min=phase.crop_area_min)
    preprocessing = make_preprocessing(data, phase.image_size)
    return Pipeline(
        source=access.source,
        order=order_of,
        prepare_image=preprocessing.train_image,
        prepare_batch=preprocessing.train_batch(),
        image_size=phase.image_size,
        config=config,
        draw=draw if mixing.is_on(config.data) else None,
    )


def evaluation_batches(
    config: Config,
    plan: EvaluationPlan,
    source: Source,
    world: World,
    *,
    threads: int,
) -> Batches:
    """This rank's share of the validation split, padded.

    Every rank gets `plan.evaluation_steps` batches of the same size; what is
    not an image has weight 0.
    """
    image_size = plan.evaluation_image_size
    access = _evaluation_access(plan, source, world)
    preprocessing = make_preprocessing(config.data, image_size)

    def order_of(number: int) -> tuple[np.ndarray, np.ndarray]:
        images, _ = access.images_at(plan.evaluation_batch(number, world.rank))
        return images, np.zeros([len(images), 2], np.int64)

    pipeline = Pipeline(
        source=access.source,
        order=order_of,
        prepare_image=lambda encoded, seed, pixels: (
            preprocessing.evaluation_image(encoded, pixels)
        ),
        image_size=image_size,
        config=config,
    )
    size = plan.evaluation_batch_size_per_process
    numbers = range(plan.evaluation_steps)
    dataset = pipeline.dataset(numbers, size, threads)
    dataset = dataset.map(lambda batch: _padded(batch, size))
    padding = Batch(
        tf.zeros([size, image_size, image_size, 3], tf.uint8),
        tf.zeros([size], tf.int32),
        tf.zeros([size]),
        tf.fill([size], tf.constant(-1, tf.int64)),
    )
    dataset = dataset.concatenate(
        tf.data.Dataset.from_tensors(padding).repeat()
    ).take(plan.evaluation_steps)
    return Batches(
        _with_options(dataset, threads), [(pipeline, numbers)], access.close
    )


def _evaluation_access(
    plan: EvaluationPlan, source: Source, world: World
) -> Access:
    if isinstance(source, StreamedSource):
        return _stream_access(
            source,
            plan.evaluation_rows_before,
            world,
            first_position=0,
            seed=0,
            buffer_size=0,
        )
    return Access(
        source,
        lambda rows: (
            np.arange(rows.start, rows.stop, dtype=np.int64),
            np.zeros(len(rows), np.int64),
        ),
    )


def _padded(batch: Batch, size: int) -> Batch:
    def pad(tensor: tf.Tensor, value: int = 0) -> tf.Tensor:
        missing = size - tf.shape(tensor)[0]
        paddings = [[0, missing]] + [[0, 0]] * (tensor.shape.rank - 1)
        padded = tf.pad(tensor, paddings, constant_values=value)
        return tf.ensure_shape(padded, [size, *tensor.shape[1:]])

    return Batch(
        pad(batch.images),
        pad(batch.labels),
        pad(batch.weights),
        pad(batch.indices, -1),
    )


def _with_options(dataset: tf.data.Dataset, threads: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # A pool of its own per process: the shared one would have a thread per
    # core of the host in every process.
    options.threading.private_threadpool_size = threads
    # Nothing is left to tune, and watching took 25 us per image (AMD EPYC).
    options.autotune.enabled = False
    return dataset.prefetch(_PREFETCH_BATCHES).with_options(options)
