"""A run goes on where it was, or begins with the weights of another."""

import dataclasses

import numpy as np
import pytest

from hvd_imagenet import (
    checkpoints,
    distributed,
    ema,
    resnet,
    restoring,
    resuming,
    runlog,
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
_NETWORK = {"model": "resnet18", "blur_pool": False}


class _Lines(runlog.NullRunLog):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def _config(init_from=None, workdir=None, ema_decay=None, **model):
    return Config(
        model=dataclasses.replace(_MODEL, **model),
        optimization=OptimizationConfig(ema_decay=ema_decay),
        run=RunConfig(
            init_from=init_from and str(init_from),
            workdir=workdir and str(workdir),
        ),
    )


def _resume(config):
    """(trainer, saver, first step, lines printed)."""
    plan = make_plan(
        config, world_size=1, train_images=512, validation_images=1
    )
    log = _Lines()
    trainer, saver, begun = resuming.resume(
        config, plan, distributed.Processes(), log
    )
    return trainer, saver, begun.step, log.lines


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
    trainer, saver, first_step, lines = _resume(
        _config(workdir=workdir, ema_decay=0.9)
    )
    assert (first_step, lines) == (0, [])
    random = np.random.default_rng(0)
    for step in (4, 5):
        for variable in trainer.state:
            if "float" in variable.dtype:
                variable.assign(random.random(variable.shape, np.float32))
        saver.save(step)
    saver.require_saved()
    return workdir, trainer


def _averages(trainer):
    averages = _values(trainer.average.variables)
    return {
        v.path: averages[ema.path_of_average(v.path)]
        for v in trainer.model.variables
    }


def test_a_run_goes_on_where_it_was(other):
    workdir, before = other
    # Whatever is at --init_from by now: it was a checkpoint of its own recipe.
    config = _config(workdir=workdir, ema_decay=0.9)
    trainer, saver, first_step, lines = _resume(config)
    assert (first_step, lines) == (5, [])
    assert isinstance(saver, saving.Saver)
    _assert_equal(_values(trainer.state), _values(before.state))


def test_a_run_begins_with_the_averaged_weights_of_another(other, tmp_path):
    workdir, before = other
    config = _config(workdir, tmp_path, ema_decay=0.5)
    trainer, saver, first_step, lines = _resume(config)
    assert first_step == 0
    path = f"{workdir}/checkpoints/step_00000005.npz"
    assert lines == [f"initial averaged weights: {path}, step 5"]
    weights = _averages(before)
    _assert_equal(_values(trainer.model.variables), weights)
    # Its own averages begin with them, and its optimizer is new.
    _assert_equal(_averages(trainer), weights)
    for variable in trainer.optimizer.variables:
        if variable.path.endswith("learning_rate"):
            continue
        assert not np.any(variable.numpy()), variable.path
    # Resumed, it has its own, even if that is gone.
    trainer.model.variables[0].assign(trainer.model.variables[0] + 1)
    saver.save(1)
    saver.require_saved()
    workdir.rename(tmp_path / "elsewhere")
    try:
        resumed, _, first_step, lines = _resume(config)
    finally:
        (tmp_path / "elsewhere").rename(workdir)
    assert (first_step, lines) == (1, [])
    _assert_equal(_values(resumed.state), _values(trainer.state))


def test_another_number_of_classes_takes_a_new_last_layer(other):
    workdir, before = other
    path = workdir / "checkpoints" / "step_00000005.npz"
    config = dataclasses.replace(_MODEL, num_classes=5)
    model = resnet.build_model(config)
    initial = _values(model.variables)
    line = restoring.take_weights(str(path), model, config)
    assert line.endswith(
        "; the last layer is new, as that has 7 classes and this model 5"
    )
    ours, theirs = _values(model.variables), _averages(before)
    for name in ("logits/kernel", "logits/bias"):
        np.testing.assert_array_equal(ours.pop(name), initial[name])
        theirs.pop(name)
    _assert_equal(ours, theirs)


def test_without_averages_it_takes_the_weights(model, tmp_path):
    arrays = {k: v + 1 for k, v in _values(model.variables).items()}
    store = checkpoints.Checkpoints(str(tmp_path), keep=1)
    optimizer = {"momentum/stem": np.ones(3), "iteration": np.array(3)}
    path = store.save(2, {**arrays, **optimizer}, _NETWORK)
    line = restoring.take_weights(path, model, _MODEL)
    assert line == f"initial weights: {path}, step 2"
    _assert_equal(_values(model.variables), arrays)


def test_of_a_run_with_a_damaged_newest_the_one_before_is_taken(
    other, model, caplog
):
    workdir, _ = other
    path = workdir / "checkpoints" / "step_00000005.npz"
    data = path.read_bytes()
    path.write_bytes(data[:-1000])
    try:
        line = restoring.take_weights(str(workdir), model, _MODEL)
        assert line.endswith("step 4")
        assert "step_00000005.npz is damaged" in caplog.text
        with pytest.raises(ValueError, match=r"00000005.npz is damaged"):
            restoring.take_weights(str(path), model, _MODEL)
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            {"model": "resnet34"},
            [
                "--model was resnet18 and is resnet34 now",
                "stage1_block3_conv1/kernel is missing",
                " more. Ask for the network",
            ],
        ),
        ({"blur_pool": True}, ["--blur_pool was False and is True now"]),
    ],
)
def test_another_network_is_refused_with_what_differs(other, model, words):
    workdir, _ = other
    config = dataclasses.replace(_MODEL, **model)
    with pytest.raises(ValueError) as caught:
        restoring.take_weights(str(workdir), resnet.build_model(config), config)
    for word in [f"--init_from={workdir} does not fit", *words]:
        assert word in str(caught.value)


def test_a_larger_network_is_no_smaller_one(model, tmp_path):
    # All that the smaller has is in the larger, and of the same shapes.
    arrays = _values(model.variables) | {
        "stage1_block3_conv1/kernel": np.ones(3)
    }
    store = checkpoints.Checkpoints(str(tmp_path), keep=1)
    path = store.save(2, arrays, {**_NETWORK, "model": "resnet34"})
    with pytest.raises(ValueError, match="model was resnet34 and is resnet18"):
        restoring.take_weights(path, model, _MODEL)


def test_what_is_not_there_is_said(model, tmp_path):
    for path, words in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, r"has no checkpoints/step_\*\.npz"),
    ):
        with pytest.raises(ValueError, match=f"--init_from={path} {words}"):
            restoring.take_weights(str(path), model, _MODEL)


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
        "  ema_decay was 0.9 and is not set now",
        "  num_classes was 7 and is 5 now",
        "  precision was float32 and is bfloat16 now",
    ):
        assert line in str(caught.value).splitlines()
