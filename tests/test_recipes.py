"""Every recipe: its golden plan at its paper's world, and that it trains."""

import json
import pathlib
import re

import numpy as np
import pytest

import jobs
from hvd_imagenet import flags, imagenet
from hvd_imagenet.plan import make_plan

_REPOSITORY = pathlib.Path(__file__).parent.parent
_FOLDER = _REPOSITORY / "flags"
_PROGRAM = pathlib.Path(__file__).parent / "programs" / "every_recipe.py"

# Recipe: processes of its source, micro-batch, images per step, steps, steps of
# warmup, rate of the first step, peak by the linear scaling rule, last rate.
_PLANS = {
    "goyal2017": (256, 32, 8192, 14076, 782, 0.1, 3.2, 0.0032),
    "goyal2017_256": (8, 32, 256, 450411, 0, 0.1, 0.1, 0.0001),
    "goyal2017_resnet101": (256, 32, 8192, 14076, 782, 0.1, 3.2, 0.0032),
    "goyal2017_no_warmup": (256, 32, 8192, 14076, 0, 3.2, 3.2, 0.0032),
    "goyal2017_constant_warmup": (256, 32, 8192, 14076, 782, 0.1, 3.2, 0.0032),
    "you2017_lars_8k": (256, 32, 8192, 15640, 782, 0.0, 30.0, 5.4e-7),
    "you2017_lars_32k": (1024, 32, 32768, 3910, 470, 0.0, 40.0, 1.4e-5),
    "akiba2017": (1024, 32, 32768, 3519, 0, 6.4, 12.8, 0.0128),
    "jia2018_lars_64k": (2048, 32, 65536, 1682, 607, 0.0, 24.699, 1.9e-4),
    "mlperf_lars_4k": (64, 64, 4096, 13137, 1564, 0.0, 10.0, 1.003e-4),
    "mlperf_lars_32k": (256, 128, 32768, 2229, 626, 0.0, 21.2, 1.33e-4),
    "fastai2018": (128, 64, 8192, 3285, 0, 1.88, 1.88, 0.00376),
    "ffcv_88": (8, 512, 4096, 27526, 0, 1.7e-4, 1.7, 6.3e-5),
    "rsb_a3": (8, 256, 2048, 62557, 3128, 1e-4, 0.008, 5.589e-12),
}

# Where there are phases: first step, image size, images per step and per
# process, least area of crops. Epoch 6 is step 938.35, and so on.
_PHASES = {
    "fastai2018": [
        (0, 128, 8192, 64, 0.08),
        (939, 128, 16384, 128, 0.08),
        (1721, 224, 8192, 64, 0.08),
        (2190, 224, 24576, 192, 0.08),
        (3129, 288, 16384, 128, 0.5),
    ],
    "ffcv_88": [(0, 160, 4096, 512, 0.08), (22208, 192, 4096, 512, 0.08)],
}


def _plan(recipe, world_size):
    return make_plan(
        flags.read(str(_FOLDER / f"{recipe}.flags")),
        world_size=world_size,
        train_images=imagenet.TRAIN_IMAGES,
        validation_images=imagenet.VALIDATION_IMAGES,
    )


def test_every_recipe_of_the_literature_has_a_golden_plan():
    there = {path.stem for path in _FOLDER.glob("*.flags")}
    assert there == _PLANS.keys() | {"quickstart"}


@pytest.mark.parametrize("recipe", _PLANS)
def test_golden_plan(recipe):
    world, micro, images, steps, warmup, first, peak, last = _PLANS[recipe]
    plan = _plan(recipe, world)
    assert plan.phase(0).batch_size_per_process == micro
    assert plan.phase(0).global_batch_size == images
    assert plan.phase(0).accumulation_steps == 1
    assert plan.total_steps == steps
    assert plan.warmup_steps == warmup
    assert plan.learning_rate(0) == pytest.approx(first)
    assert plan.schedule.peak == pytest.approx(peak)
    assert plan.learning_rate(steps - 1) == pytest.approx(last, rel=0.05)
    for smaller in (1, 8):
        other = _plan(recipe, smaller)
        assert {phase.accumulation_steps for phase in other.phases.phases} == {
            world // smaller
        }
        assert other.schedule == plan.schedule
        assert other.total_steps == plan.total_steps


@pytest.mark.parametrize("recipe", _PLANS)
def test_golden_phases(recipe):
    plan = _plan(recipe, _PLANS[recipe][0])
    _, micro, images, *_ = _PLANS[recipe]
    size = 160 if recipe == "rsb_a3" else 224
    golden = _PHASES.get(recipe, [(0, size, images, micro, 0.08)])
    assert [
        (
            phase.first_step,
            phase.image_size,
            phase.global_batch_size,
            phase.batch_size_per_process,
            phase.crop_area_min,
        )
        for phase in plan.phases.phases
    ] == golden
    evaluated = {"fastai2018": 288, "ffcv_88": 256}
    assert plan.evaluation_image_size == evaluated.get(recipe, 224)


def test_fastais_rates_are_those_that_were_logged():
    plan = _plan("fastai2018", 128)
    # Epochs 0, 3, 6, 16, 19, 31, 37 and 38.
    for step, rate in (
        (0, 1.88),
        (470, 1.88 * (1 + 470 / 939)),
        (939, 3.76),
        (1720, 3.76),
        (1721, 1.88),
        (2190, 0.564),
        (2815, 0.564),
        (2816, 0.0564),
        (3129, 0.0376),
        (3205, 0.0376),
        (3206, 0.00376),
    ):
        assert plan.learning_rate(step) == pytest.approx(rate), step


def test_akibas_slow_start():
    plan = _plan("akiba2017", 1024)
    # Epochs 0, 40, 70 and 85 at 39.098 steps per epoch.
    for step, rate in (
        (0, 6.4),
        (1563, 6.4),
        (1564, 0.96),
        (2736, 0.96),
        (2737, 0.128),
        (3323, 0.128),
        (3324, 0.0128),
    ):
        assert plan.learning_rate(step) == pytest.approx(rate)


def test_akibas_statistics_are_of_the_last_step():
    config = flags.read(str(_FOLDER / "akiba2017.flags"))
    assert config.model.batch_norm_momentum == 0
    assert config.model.bn_statistics == "average"
    assert config.optimization.compression == "fp16"


@pytest.mark.parametrize(
    ("recipe", "middle"), [("you2017_lars_32k", 10.0), ("mlperf_lars_4k", 2.5)]
)
def test_polynomial_recipes_have_a_quarter_of_the_rate_half_way(recipe, middle):
    plan = _plan(recipe, 1)
    step = (plan.warmup_steps + plan.total_steps) // 2
    assert plan.learning_rate(step) == pytest.approx(middle, rel=1e-2)


@pytest.mark.horovod
@pytest.mark.parametrize(
    "names",
    [
        "goyal2017",
        pytest.param("quickstart|you", marks=pytest.mark.slow),
        pytest.param("akiba|mlp|jia", marks=pytest.mark.slow),
        pytest.param("fastai|ffcv|rsb", marks=pytest.mark.slow),
    ],
)
def test_it_trains_on_two_ranks_as_on_one(names):
    paths = [
        str(path)
        for path in sorted(_FOLDER.glob("*.flags"))
        if re.match(names, path.stem)
    ]
    assert paths
    finished = jobs.run(2, str(_PROGRAM), *paths)
    (text,) = re.findall(r"RESULT (.*)", finished.stdout)
    results = json.loads(text)
    assert len(results) == len(paths)
    for recipe, (together, alone) in results.items():
        assert np.all(np.isfinite(together)), recipe
        # A toy set of four classes: ln 4 is 1.386.
        assert np.mean(together[-3:]) < 0.93 * np.mean(together[:3]), recipe
        # One step of another order of sums; half precision on the wire or in
        # the network rounds more.
        config = flags.read(str(_FOLDER / f"{recipe}.flags"))
        is_half = (
            config.optimization.compression != "none"
            or config.model.precision != "float32"
        )
        np.testing.assert_allclose(
            together[:2], alone[:2], rtol=2e-3 if is_half else 1e-6
        )
        np.testing.assert_allclose(
            together[:4], alone[:4], rtol=5e-2 if is_half else 5e-3
        )
