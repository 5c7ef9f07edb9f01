"""Every knob of a run, once: name, type, default, unit, limits and meaning.

A `Config` is what was asked for. A knob either belongs to the recipe, because
it changes the result of the training, or to the site: paths, threads, how
often something is written. Flags (`flags.py`), the text of recipes, the check
that a work directory is resumed with its own recipe and `--help` are all made
from these fields. Each group of knobs is a module.
"""

from hvd_imagenet.config.data import DataConfig
from hvd_imagenet.config.mlperf import MLPerfConfig
from hvd_imagenet.config.model import ModelConfig
from hvd_imagenet.config.optimization import OptimizationConfig
from hvd_imagenet.config.phases import PhaseConfig
from hvd_imagenet.config.run import RunConfig
from hvd_imagenet.config.schedule import ScheduleConfig
from hvd_imagenet.config.whole import Config, require_same

__all__ = [
    "Config",
    "DataConfig",
    "MLPerfConfig",
    "ModelConfig",
    "OptimizationConfig",
    "PhaseConfig",
    "RunConfig",
    "ScheduleConfig",
    "require_same",
]
