"""The evaluation of a checkpoint on all ranks, as its training does it."""

import dataclasses
import sys
from typing import Any

import tqdm

from hvd_imagenet import (
    dataset,
    devices,
    first_rank,
    label_offset,
    progress,
    splits,
)
from hvd_imagenet.batches import Batches
from hvd_imagenet.config import Config
from hvd_imagenet.evaluation import Evaluator
from hvd_imagenet.evaluation_plan import EvaluationPlan, make_evaluation_plan
from hvd_imagenet.inference import class_names, trained
from hvd_imagenet.inference.options import EvaluateOptions
from hvd_imagenet.inference.per_class import ByClass
from hvd_imagenet.inference.trained import Trained
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.processes import Processes
from hvd_imagenet.sources import Source
from hvd_imagenet.supervision.supervisor import Supervisor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to evaluate on which images, all of it checked.

    Attributes:
        trained: what is evaluated.
        config: of its run, where images are prepared otherwise for crops.
        plan: who evaluates which images.
        source: the images.
        evaluator: of the model.
        names: of the classes, on rank 0; None elsewhere.
    """

    trained: Trained
    config: Config
    plan: EvaluationPlan
    source: Source
    evaluator: Evaluator
    names: class_names.ClassNames | None


def prepare(options: EvaluateOptions, processes: Processes) -> Task:
    """Checks everything that can be wrong, with the other ranks.

    Raises:
        ValueError: one sentence on what is wrong and the remedy.
    """
    found, model = trained.load(options, processes)
    source = _open(found, processes)
    config, crop_size = found.config, None
    if options.crops == "5":
        # Prepared as squares of the resized image's shorter side.
        crop_size, resize = config.evaluation_image_size, found.resize
        config = config.with_knobs(
            {"evaluation_image_size": resize, "evaluation_resize": resize}
        )
    plan = make_evaluation_plan(
        config,
        world_size=processes.world.size,
        validation_images=len(source),
    )
    processes.require_same(
        {
            **dataclasses.asdict(plan),
            "label_offset": source.features and source.features.label_offset,
        }
    )
    return Task(
        trained=found,
        config=config,
        plan=plan,
        source=source,
        evaluator=Evaluator(
            model,
            processes,
            flip=config.data.evaluation_flip,
            crop_size=crop_size,
        ),
        names=first_rank.call(
            processes,
            lambda: class_names.find(config, options.class_names),
        ),
    )


def evaluate(
    task: Task, processes: Processes, supervisor: Supervisor
) -> tuple[dict[str, Any], ByClass] | None:
    """Evaluates. A collective operation.

    Returns:
        (what the training writes as its result, class by class) on rank 0,
        None elsewhere.

    Raises:
        CorruptRecordError: a record cannot be used.
    """
    config, world = task.config, processes.world
    batches = dataset.evaluation_batches(
        config,
        task.plan,
        task.source,
        world,
        threads=config.data.input_threads or devices.threads_per_process(world),
    )
    supervisor.at(task.trained.step, "evaluating")
    supervisor.watch(batches)
    steps = task.plan.evaluation_steps
    is_shown = world.is_first and progress.is_terminal(sys.stderr)
    with tqdm.tqdm(total=steps, unit="batch", disable=not is_shown) as bar:
        evaluation = task.evaluator.evaluate(
            _Counted(batches, bar), steps=steps, examples=len(task.source)
        )
    if not world.is_first:
        return None
    return evaluation.result(), ByClass.of(evaluation.answers, task.names)


def _open(found: Trained, processes: Processes) -> Source:
    """The validation images; one process of a host goes before the others."""
    config = found.config
    is_first_here = processes.world.local_rank == 0
    if not is_first_here:
        processes.barrier()
    try:
        source = splits.open_split(config, "validation")
    except ValueError as error:
        if "--num_classes" not in str(error):
            raise
        raise ValueError(
            f"{error} The network of {found.path} has"
            f" {config.model.num_classes} classes; name the data that it was"
            " trained on."
        ) from error
    if is_first_here:
        processes.barrier()
    label_offset.settle((source,), config.model.num_classes)
    return source


class _Counted:
    """Batches that a progress bar counts."""

    def __init__(self, batches: Batches, bar: tqdm.tqdm):
        self._batches = batches
        self._bar = bar

    def __next__(self) -> Batch:
        self._bar.update()
        return next(self._batches)

    @property
    def skipped(self) -> list[str]:
        return self._batches.skipped
