"""A run goes on where it was."""

import dataclasses

import numpy as np
import pytest

from hvd_imagenet import (
    checkpoints,
    distributed,
    resnet,
    restoring,
    resuming,
    saving,
)
from hvd_imagenet.config import (
    Config,
    ModelConfig,
    OptimizationConfig,
    RunConfig,
)
from hvd_imagenet.plan import make_plan

_MODEL = ModelConfig(model="resnet18", num_classes=7, image_size=32)


def _config(workdir=None, ema_decay=None, **model):
    return Config(
        model=dataclasses.replace(_MODEL, **model),
        optimization=OptimizationConfig(ema_decay=ema_decay),
        run=RunConfig(workdir=workdir and str(workdir)),
    )


def _resume(config):
    """(trainer, saver, first step)."""
    plan = make_plan(
        config, world_size=1, train_images=512, validation_images=1
    )
    return resuming.resume(config, plan, distributed.Processes())


def _values(variables):
    return {v.path: v.numpy() for v in variables}


def _assert_equal(ours, theirs, but=()):
    assert ours.keys() == theirs.keys()
    different = {k for k in ours if not np.array_equal(ours[k], theirs[k])}
    assert different == set(but)


@pytest.fixture(scope="module")
def model():
    return resnet.build_model(_MODEL)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run with averages, and two checkpoints, of steps 4 and 5."""
    workdir = tmp_path_factory.mktemp("other")
    trainer, saver, first_step = _resume(
        _config(workdir=workdir, ema_decay=0.9)
    )
    assert first_step == 0
    random = np.random.default_rng(0)
    for step in (4, 5):
        for variable in trainer.state:
            if "float" in variable.dtype:
                variable.assign(random.random(variable.shape, np.float32))
        saver.save(step)
    saver.require_saved()
    return workdir, trainer


def test_a_run_goes_on_where_it_was(other):
    workdir, before = other
    config = _config(workdir=workdir, ema_decay=0.9)
    trainer, saver, first_step = _resume(config)
    assert first_step == 5
    assert isinstance(saver, saving.Saver)
    _assert_equal(_values(trainer.state), _values(before.state))


def test_other_variables_are_refused_one_by_one(model, tmp_path):
    arrays = _values(model.variables)
    arrays["old/kernel"] = arrays.pop("stem_conv/kernel")
    arrays["stem_bn/gamma"] = np.ones(3, np.float32)
    store = checkpoints.Checkpoints(str(tmp_path), keep=1)
    store.save(1, arrays, {})
    with pytest.raises(ValueError) as caught:
        restoring.restore(store, model.variables, {})
    for word in (
        "stem_conv/kernel is missing",
        "stem_bn/gamma is [3] and should be [64]",
        "old/kernel is not known",
        "another --workdir",
    ):
        assert word in str(caught.value)


def test_another_recipe_is_refused_with_all_that_differs(other):
    workdir, _ = other
    store = checkpoints.Checkpoints(str(workdir / "checkpoints"), keep=1)
    config = _config(num_classes=5, precision="bfloat16")
    with pytest.raises(ValueError) as caught:
        restoring.restore(store, [], config.recipe())
    for line in (
        "ema_decay was 0.9 and is None now",
        "num_classes was 7 and is 5 now",
        "precision was float32 and is bfloat16 now",
    ):
        assert line in str(caught.value)
