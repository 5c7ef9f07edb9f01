"""All knobs together: what must fit, and what of them is the recipe."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hvd_imagenet.config.data import DataConfig
from hvd_imagenet.config.mlperf import MLPerfConfig
from hvd_imagenet.config.model import ModelConfig
from hvd_imagenet.config.optimization import OptimizationConfig
from hvd_imagenet.config.phases import PhaseConfig
from hvd_imagenet.config.run import RunConfig
from hvd_imagenet.config.schedule import ScheduleConfig
from hvd_imagenet.knobs import value_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that was asked of a run.

    Raises:
        ValueError: a value is outside its limits, or two do not fit together;
            one sentence with the value, the limit and the remedy.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimization: OptimizationConfig = dataclasses.field(
        default_factory=OptimizationConfig
    )
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    phases: PhaseConfig = dataclasses.field(default_factory=PhaseConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    mlperf: MLPerfConfig = dataclasses.field(default_factory=MLPerfConfig)

    def __post_init__(self):
        data, epochs = self.data, self.optimization.epochs
        for least in self.phases.phase_crop_area_min or ():
            if least > data.crop_area_max:
                raise ValueError(
                    f"--phase_crop_area_min={least} is greater than"
                    f" --crop_area_max={data.crop_area_max}; lower one or raise"
                    " the other."
                )
        resize, size = data.evaluation_resize, self.evaluation_image_size
        if resize is not None and resize < size:
            raise ValueError(
                f"--evaluation_resize={resize} is smaller than the crop of"
                f" {size} pixels (--evaluation_image_size); it must be at least"
                " as large."
            )
        begun = max(self.phases.phase_epochs or (0.0,))
        if begun >= epochs:
            raise ValueError(
                f"--phase_epochs has {begun:g}, which is not before the end at"
                f" --epochs={epochs}; leave that phase out or train longer."
            )
        warmup = self.schedule
        if warmup.warmup != "none" and warmup.warmup_epochs > epochs:
            raise ValueError(
                f"--warmup_epochs={warmup.warmup_epochs} is more than"
                f" --epochs={epochs}; shorten the warmup or train longer."
            )
        if self.optimization.loss == "bce":
            self._require_useful_threshold()
        if self.run.world_size is not None and not self.run.dry_run:
            raise ValueError(
                f"--world_size={self.run.world_size} only plans; add --dry_run,"
                " or start that many processes with horovodrun -np."
            )

    def _require_useful_threshold(self):
        """It must part the label's target from that of the other classes."""
        threshold = self.optimization.bce_target_threshold
        smoothing = self.optimization.label_smoothing
        other = smoothing / self.model.num_classes
        label = 1.0 - smoothing + other
        if threshold is not None and not other <= threshold < label:
            raise ValueError(
                f"--bce_target_threshold={threshold} must be at least"
                f" {other:g} and less than {label:g}, the targets that"
                f" --label_smoothing={smoothing} gives an image's label and"
                " the other classes."
            )

    @property
    def evaluation_image_size(self) -> int:
        """Side in pixels of the images that are evaluated."""
        sizes = self.phases.phase_image_sizes or (self.model.image_size,)
        return self.data.evaluation_image_size or sizes[-1]

    def groups(self) -> Iterator[Any]:
        """The frozen groups of knobs, in the order of `--help`."""
        return (getattr(self, f.name) for f in dataclasses.fields(self))

    def recipe(self) -> dict[str, Any]:
        """Value by name of every knob that changes this run's result."""
        return {
            field.name: getattr(group, field.name)
            for group in self.groups()
            for field in dataclasses.fields(group)
            if field.metadata["knob"].recipe
            and field.metadata["knob"].applies(group)
        }

    def with_knobs(self, values: Mapping[str, Any]) -> "Config":
        """The same with other values of some knobs.

        Args:
            values: by name; lists, as JSON has them, are tuples.

        Raises:
            ValueError: there is no such knob, or as for the class.
        """
        left = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        groups = {}
        for group in dataclasses.fields(self):
            own = {knob.name for knob in dataclasses.fields(group.type)}
            changes = {name: left.pop(name) for name in own & left.keys()}
            groups[group.name] = dataclasses.replace(
                getattr(self, group.name), **changes
            )
        if left:
            raise ValueError(f"{', '.join(sorted(left))} is no known flag.")
        return Config(**groups)


def require_same(
    saved: Mapping[str, Any], asked: Mapping[str, Any], where: str
) -> None:
    """Compares what a run was begun with and what is asked for now.

    Raises:
        ValueError: lists every difference, one a line.
    """
    # Through JSON, as `saved` was: tuples become lists.
    saved, asked = (json.loads(json.dumps(dict(f))) for f in (saved, asked))
    differences = [
        f"\n  {name} was {_text(saved.get(name))} and is"
        f" {_text(asked.get(name))} now"
        for name in sorted(saved.keys() | asked.keys())
        if saved.get(name) != asked.get(name)
    ]
    if differences:
        raise ValueError(
            f"{where} is of another recipe:{''.join(differences)}\nChoose"
            " another --workdir, or ask for the same. With another --workdir,"
            " --init_from can begin with its weights."
        )


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    return value_text(tuple(value) if isinstance(value, list) else value)
