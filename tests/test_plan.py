"""The plan of Goyal's recipe, and what must hold of a plan at any world."""

import dataclasses
import json
import math
import pathlib
import re

import numpy as np
import pytest
from absl import flags as absl_flags

from hvd_imagenet import flags, imagenet
from hvd_imagenet.config import (
    Config,
    ModelConfig,
    OptimizationConfig,
    PhaseConfig,
    RunConfig,
    ScheduleConfig,
)
from hvd_imagenet.plan import make_plan

_RECIPES = pathlib.Path(__file__).parent.parent / "flags"
_WORLDS = (1, 3, 8, 256)


def _goyal(
    world_size,
    train_images=imagenet.TRAIN_IMAGES,
    validation_images=imagenet.VALIDATION_IMAGES,
):
    values = absl_flags.FlagValues()
    flags.define(values)
    config = flags.parse(
        ["train", f"--flagfile={_RECIPES / 'goyal2017.flags'}"], values
    )
    return make_plan(
        config,
        world_size=world_size,
        train_images=train_images,
        validation_images=validation_images,
    )


def _groups(knobs):
    """The groups of a configuration that have these knobs."""
    of_schedule = {field.name for field in dataclasses.fields(ScheduleConfig)}
    schedule = {k: v for k, v in knobs.items() if k in of_schedule}
    rest = {k: v for k, v in knobs.items() if k not in of_schedule}
    return {
        "optimization": OptimizationConfig(**rest),
        "schedule": ScheduleConfig(**schedule),
    }


def _plan(
    world_size=1,
    train_images=imagenet.TRAIN_IMAGES,
    validation_images=imagenet.VALIDATION_IMAGES,
    evaluation_batch_size_per_process=None,
    **knobs,
):
    return make_plan(
        Config(
            **_groups(knobs),
            run=RunConfig(
                evaluation_batch_size_per_process=(
                    evaluation_batch_size_per_process
                )
            ),
        ),
        world_size=world_size,
        train_images=train_images,
        validation_images=validation_images,
    )


def _small(world_size):
    """1,536 images per step in micro-batches of 2; nothing divides evenly."""
    return _plan(
        world_size=world_size,
        train_images=5_003,
        validation_images=1_009,
        epochs=3,
        warmup_epochs=1,
        global_batch_size=1536,
        batch_size_per_process=2,
        evaluation_batch_size_per_process=7,
    )


# --- Golden values. ---


# The paper's 256 workers do not accumulate; one worker does the same run.
@pytest.mark.parametrize(
    ("world_size", "accumulation_steps", "evaluation_steps"),
    [(256, 1, 7), (8, 32, 196), (1, 256, 1563)],
)
def test_golden_plan_of_goyal(world_size, accumulation_steps, evaluation_steps):
    plan = _goyal(world_size)
    # Everything of the plan but the schedule, which follows.
    assert dataclasses.asdict(dataclasses.replace(plan, schedule=None)) == {
        "world_size": world_size,
        "train_images": 1_281_167,
        "validation_images": 50_000,
        "epochs": 90,
        "warmup_steps": 782,  # 781.96 steps are 5 epochs.
        "total_steps": math.ceil(90 * 1_281_167 / 8192),
        "evaluation_image_size": 224,
        "evaluation_batch_size_per_process": 32,
        "evaluation_steps": evaluation_steps,
        "phases": {
            "phases": (
                {
                    "epoch": 0.0,
                    "first_step": 0,
                    "first_position": 0,
                    "image_size": 224,
                    "crop_area_min": 0.08,
                    "global_batch_size": 8192,
                    "batch_size_per_process": 32,
                    "accumulation_steps": accumulation_steps,
                },
            ),
            "train_images": 1_281_167,
        },
        "schedule": None,
    }
    assert plan.total_steps == 14076
    assert plan.epoch_end_step(0) == 157
    assert plan.epoch_end_step(1) == 313
    assert plan.schedule.peak == pytest.approx(3.2, rel=1e-12)
    assert plan.schedule.decay.boundaries == (4692, 9384, 12512)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (1, 0.1 + 3.1 / 782),
        (391, 1.65),
        (781, 3.2 - 3.1 / 782),
        (782, 3.2),
        (4691, 3.2),
        (4692, 0.32),
        (9383, 0.32),
        (9384, 0.032),
        (12511, 0.032),
        (12512, 0.0032),
        (14075, 0.0032),
    ],
)
def test_golden_learning_rates_of_goyal(step, expected):
    assert _goyal(256).learning_rate(step) == pytest.approx(expected, rel=1e-9)


# With 156 whole steps per epoch: the vector that is worked out by hand.
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (1, 0.103974359),
        (156, 0.72),
        (390, 1.65),
        (779, 3.196025641),
        (780, 3.2),
    ],
)
def test_golden_warmup_of_whole_epochs(step, expected):
    plan = _goyal(8, train_images=156 * 8192)
    assert plan.warmup_steps == 780
    assert plan.learning_rate(step) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("global_batch_size", "exact", "whole"),
    [
        (256, 5004.559, 5004),
        (512, 2502.28, 2502),
        (1024, 1251.14, 1251),
        (2048, 625.57, 625),
        (4096, 312.785, 312),
        (8192, 156.392, 156),
        (11264, 113.74, 113),
        (16384, 78.196, 78),
        (32768, 39.098, 39),
        (65536, 19.55, 19),
    ],
)
def test_golden_steps_per_epoch(global_batch_size, exact, whole):
    plan = _plan(global_batch_size=global_batch_size, epochs=1, warmup_epochs=0)
    # The step that an epoch ends within is taken, not left out.
    assert plan.total_steps == whole + 1
    assert plan.epoch_end_step(0) == whole + 1
    assert plan.train_images / global_batch_size == pytest.approx(
        exact, abs=0.01
    )


# --- What was asked, made into a plan. ---


def test_every_learning_rate_is_independent_of_the_world():
    plans = [_goyal(world_size) for world_size in (1, 8, 256)]
    for step in range(plans[0].total_steps):
        first, *others = (plan.learning_rate(step) for plan in plans)
        assert others == [first, first]


def test_without_a_global_batch_the_world_sets_the_rate():
    single_server, large = (_plan(world_size=n) for n in (8, 256))
    assert single_server.phase(0).global_batch_size == 256
    assert single_server.phase(0).accumulation_steps == 1
    # The paper warms up only above 256 images.
    assert single_server.warmup_steps == 0
    assert single_server.learning_rate(0) == pytest.approx(0.1, rel=1e-12)

    assert large.phase(0).global_batch_size == 8192
    assert large.phase(0).accumulation_steps == 1
    assert large.warmup_steps == 782
    assert large.learning_rate(0) == pytest.approx(0.1, rel=1e-12)
    assert large.learning_rate(782) == pytest.approx(3.2, rel=1e-12)


def test_a_smaller_batch_than_the_base_scales_down_without_warmup():
    plan = _plan(global_batch_size=128)
    assert plan.warmup_steps == 0
    assert plan.learning_rate(0) == pytest.approx(0.05, rel=1e-12)


@pytest.mark.parametrize(
    ("warmup", "steps", "at_start", "at_middle"),
    [
        ("gradual", 782, 0.1, 1.65),
        ("constant", 782, 0.1, 0.1),
        ("none", 0, 3.2, 3.2),
    ],
)
def test_kinds_of_warmup(warmup, steps, at_start, at_middle):
    plan = _plan(global_batch_size=8192, warmup=warmup)
    assert plan.warmup_steps == steps
    assert plan.learning_rate(0) == pytest.approx(at_start, rel=1e-12)
    assert plan.learning_rate(391) == pytest.approx(at_middle, rel=1e-12)
    assert plan.learning_rate(782) == pytest.approx(3.2, rel=1e-12)


def test_warmup_from_another_rate():
    # 0 is a rate to start at, not "none given".
    plan = _plan(global_batch_size=256, warmup_learning_rate=0.0)
    assert plan.warmup_steps == math.ceil(5 * imagenet.TRAIN_IMAGES / 256)
    assert plan.learning_rate(0) == 0.0


def test_kinds_of_schedule():
    cosine, constant = (
        _plan(global_batch_size=8192, schedule=schedule)
        for schedule in ("cosine", "constant")
    )
    end = cosine.total_steps
    # Counted from the end of the warmup, so there is no jump there.
    assert cosine.learning_rate(782) == pytest.approx(3.2, rel=1e-12)
    assert cosine.learning_rate((782 + end) // 2) == pytest.approx(1.6)
    assert 0 < cosine.learning_rate(end - 1) < 1e-6
    assert constant.learning_rate(end - 1) == pytest.approx(3.2, rel=1e-12)


def test_fractions_of_epochs_are_free_of_rounding_errors():
    # 1.1 x 50 is 55.00000000000001 to Python, and 55 images are 55 steps.
    plan = _plan(
        train_images=50,
        global_batch_size=1,
        batch_size_per_process=1,
        warmup_epochs=1.1,
        warmup_learning_rate=0.0,
        decay_epochs=(2.2,),  # 110.00000000000001
    )
    assert plan.warmup_steps == 55
    assert plan.schedule.decay.boundaries == (110,)


# --- Which images each rank takes. ---


@pytest.mark.parametrize("world_size", _WORLDS)
def test_micro_batches_cover_the_stream_exactly_once(world_size):
    plan = _small(world_size)
    # Every rank runs every (step, index): all take the same number of steps.
    taken = np.zeros(
        plan.total_steps * plan.phase(0).global_batch_size, np.int64
    )
    for step in range(plan.total_steps):
        first = step * plan.phase(0).global_batch_size
        of_step = []
        for index in range(plan.phase(0).accumulation_steps):
            for rank in range(world_size):
                positions = plan.micro_batch(step, index, rank)
                assert len(positions) == plan.phase(0).batch_size_per_process
                of_step.extend(positions)
        # The same images in a step at any world.
        assert sorted(of_step) == list(
            range(first, first + plan.phase(0).global_batch_size)
        )
        taken[of_step] += 1
    assert (taken == 1).all()
    # The run sees every epoch to its end, and less than a step beyond.
    overhang = taken.size - plan.epochs * plan.train_images
    assert 0 <= overhang < plan.phase(0).global_batch_size


def test_micro_batches_are_cut_without_knowing_the_world():
    # What batch normalization sees together must not depend on the world.
    def cuts(world_size):
        plan = _small(world_size)
        return {
            (step, plan.micro_batch(step, index, rank))
            for step in range(plan.total_steps)
            for index in range(plan.phase(0).accumulation_steps)
            for rank in range(world_size)
        }

    single = cuts(1)
    assert len(single) == 10 * 768
    for world_size in _WORLDS[1:]:
        assert cuts(world_size) == single


@pytest.mark.parametrize("world_size", _WORLDS)
@pytest.mark.parametrize(
    ("validation_images", "batch"),
    [(1_009, 7), (1_009, 64), (7 * 256 * 3, 7), (5, 7)],
)
def test_evaluation_counts_every_image_once(
    world_size, validation_images, batch
):
    plan = _plan(
        world_size=world_size,
        validation_images=validation_images,
        evaluation_batch_size_per_process=batch,
    )
    taken = np.zeros(plan.validation_images, np.int64)
    # Every rank runs every index, if only on padding: the same number of
    # batches on all of them.
    for index in range(plan.evaluation_steps):
        for rank in range(world_size):
            images = plan.evaluation_batch(index, rank)
            assert len(images) <= batch
            taken[list(images)] += 1
    assert (taken == 1).all()
    # And no batch in which nobody has an image.
    assert len(plan.evaluation_batch(plan.evaluation_steps - 1, 0)) > 0


def test_evaluation_batch_is_that_of_training_unless_given():
    plan = _plan(world_size=8, batch_size_per_process=16)
    assert plan.evaluation_batch_size_per_process == 16
    assert plan.evaluation_steps == math.ceil(50_000 / (8 * 16))


# The last has steps of several epochs each.
@pytest.mark.parametrize("train_images", [5_003, 4_608, 100])
def test_epochs_and_steps_agree(train_images):
    plan = _plan(
        train_images=train_images,
        epochs=7,
        global_batch_size=1536,
    )
    assert plan.epoch_end_step(plan.epochs - 1) == plan.total_steps
    for step in range(plan.total_steps + 1):
        seen = step * plan.phase(0).global_batch_size
        epoch = plan.epoch_of_step(step)
        # Before the step, all epochs before are complete and this one is not.
        assert epoch * train_images <= seen < (epoch + 1) * train_images
        assert plan.epoch_end_step(epoch) > step
        assert epoch == 0 or plan.epoch_end_step(epoch - 1) <= step
    ends = [plan.epoch_end_step(epoch) for epoch in range(plan.epochs)]
    steps = range(1, plan.total_steps + 1)
    assert [step for step in steps if plan.is_due(step, 0)] == sorted(set(ends))
    assert [step for step in steps if plan.is_due(step, 7)] == sorted(
        {*ends, *range(7, plan.total_steps + 1, 7)}
    )


# --- Errors. ---


@pytest.mark.parametrize(
    ("world_size", "world_batch"), [(3, 96), (300, 9600), (512, 16384)]
)
def test_a_batch_that_does_not_divide_is_refused_with_a_remedy(
    world_size, world_batch
):
    with pytest.raises(ValueError, match=r"not divisible") as caught:
        _goyal(world_size)
    message = str(caught.value)
    assert "--global_batch_size=8192" in message
    assert f"--batch_size_per_process=32 x {world_size} processes" in message
    assert f"= {world_batch};" in message
    # The numbers of processes that it names are ones that work.
    remedy = re.search(r"start (\d+) or (\d+) processes", message)
    for fitting in map(int, remedy.groups()):
        assert _goyal(fitting).phase(0).global_batch_size == 8192


def test_a_batch_that_no_world_divides_names_no_world():
    with pytest.raises(ValueError, match=r"not divisible") as caught:
        _plan(world_size=2, global_batch_size=100, batch_size_per_process=32)
    assert "start" not in str(caught.value)
    assert "multiple of 32" in str(caught.value)


# --- The plan as JSON. ---


@pytest.mark.parametrize("world_size", [1, 8, 256])
def test_json_says_all_of_the_plan(world_size):
    plan = _goyal(world_size)
    entries = json.loads(plan.as_json())
    assert isinstance(entries, dict)
    for name in (
        "world_size",
        "warmup_steps",
        "total_steps",
        "train_images",
        "validation_images",
        "epochs",
        "evaluation_steps",
    ):
        assert entries[name] == getattr(plan, name), name
    assert entries["epoch_end_steps"] == [
        plan.epoch_end_step(epoch) for epoch in range(90)
    ]
    (phase,) = entries["phases"]
    assert phase["global_batch_size"] == 8192
    assert phase["accumulation_steps"] == 256 // world_size
    assert entries["peak_learning_rate"] == plan.schedule.peak


@pytest.mark.parametrize("warmup", ["gradual", "constant", "none"])
def test_json_learning_rates_give_that_of_every_step(warmup):
    # A reader joins the entries by straight lines, as the log's plot does.
    plan = _plan(global_batch_size=8192, warmup=warmup)
    entries = json.loads(plan.as_json())["learning_rate"]
    steps, rates = zip(*entries, strict=True)
    assert list(steps) == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, plan.total_steps - 1)
    every = range(plan.total_steps)
    np.testing.assert_allclose(
        np.interp(every, steps, rates),
        [plan.learning_rate(step) for step in every],
        rtol=1e-9,
    )


def test_json_learning_rates_of_goyal_give_that_of_every_step():
    plan = _goyal(256)
    entries = json.loads(plan.as_json())["learning_rate"]
    steps, rates = zip(*entries, strict=True)
    every = range(plan.total_steps)
    np.testing.assert_allclose(
        np.interp(every, steps, rates),
        [plan.learning_rate(step) for step in every],
        rtol=1e-9,
    )
    # As short as it can be read: the first steps of the epochs and the edges.
    assert len(entries) < 110


@pytest.mark.parametrize("images", [96, 192, 384, 768])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4])
def test_equal_batches_need_no_warmup(images, rate):
    # Rounding in the scaling rule would make the peak exceed the start.
    plan = _plan(
        world_size=1,
        global_batch_size=images,
        base_batch_size=images,
        base_learning_rate=rate,
    )
    assert plan.warmup_steps == 0
    assert plan.learning_rate(0) == rate


# --- Phases. ---

# fast.ai's shape in small: 10,000 images, batches of 96, 192 and 48.
_PHASES = PhaseConfig(
    phase_epochs=(1.0, 2.5),
    phase_image_sizes=(24, 32),
    phase_crop_area_min=(0.2, 0.5),
    phase_global_batch_sizes=(192, 48),
    phase_batch_sizes_per_process=(8, 4),
)


def _phased(world_size, phases=_PHASES, **knobs):
    return make_plan(
        Config(
            model=ModelConfig(image_size=16),
            **_groups(
                {
                    "epochs": 3,
                    "warmup": "none",
                    "global_batch_size": 96,
                    "batch_size_per_process": 2,
                    "base_batch_size": 96,
                    "base_learning_rate": 1.0,
                    "schedule": "constant",
                }
                | knobs
            ),
            phases=phases,
        ),
        world_size=world_size,
        train_images=10_000,
        validation_images=10,
    )


def test_golden_phases():
    plan = _phased(4)
    # 10,000 / 96 = 104.2; then from image 10,080 to 25,000 by 192: 77.7; then
    # from image 25,056 to 30,000 by 48: 103.
    assert [
        (
            phase.first_step,
            phase.first_position,
            phase.image_size,
            phase.crop_area_min,
            phase.global_batch_size,
            phase.batch_size_per_process,
            phase.accumulation_steps,
        )
        for phase in plan.phases.phases
    ] == [
        (0, 0, 16, 0.08, 96, 2, 12),
        (105, 10_080, 24, 0.2, 192, 8, 6),
        (183, 25_056, 32, 0.5, 48, 4, 3),
    ]
    assert plan.total_steps == 183 + 103
    assert [plan.epoch_end_step(epoch) for epoch in range(3)] == [105, 157, 286]
    assert plan.evaluation_image_size == 32
    assert plan.evaluation_batch_size_per_process == 2


def test_the_rate_follows_the_batch_by_the_linear_scaling_rule():
    plan = _phased(1)
    for step, rate in ((0, 1), (104, 1), (105, 2), (182, 2), (183, 0.5)):
        assert plan.learning_rate(step) == rate
    decayed = _phased(1, schedule="steps", decay_epochs=(1.0, 2.0))
    # Epoch 2 is done by step 157.
    for step, rate in ((104, 1), (105, 0.2), (156, 0.2), (157, 0.02)):
        assert decayed.learning_rate(step) == pytest.approx(rate)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
def test_phases_cover_the_stream_exactly_once_and_alike(world_size):
    plan, alone = _phased(world_size), _phased(1)
    assert plan.schedule == alone.schedule
    begun = 0
    for step in range(plan.total_steps):
        phase = plan.phase(step)
        cuts = [
            plan.micro_batch(step, index, rank)
            for index in range(phase.accumulation_steps)
            for rank in range(world_size)
        ]
        assert cuts == [
            alone.micro_batch(step, index, 0)
            for index in range(alone.phase(step).accumulation_steps)
        ]
        assert [place for cut in cuts for place in cut] == list(
            range(begun, begun + phase.global_batch_size)
        )
        assert plan.images_before(step) == begun
        assert plan.epoch_of_step(step) == begun // 10_000
        begun += phase.global_batch_size
    assert 0 <= begun - 30_000 < 48


def test_a_phase_shorter_than_a_step_is_left_out():
    phases = PhaseConfig(phase_epochs=(1.0, 1.001), phase_image_sizes=(24, 32))
    plan = _phased(1, phases)
    assert [phase.image_size for phase in plan.phases.phases] == [16, 32]
    assert plan.phase(104).image_size == 16
    assert plan.phase(105).image_size == 32


def test_a_batch_of_a_phase_that_cannot_be_cut_is_named():
    with pytest.raises(ValueError, match=r"=192 from epoch 1 on is not"):
        _phased(16)


def test_json_shows_the_phases():
    plan = _phased(4)
    entries = json.loads(plan.as_json())
    assert entries["phases"] == [
        dataclasses.asdict(phase) for phase in plan.phases.phases
    ]
    steps, rates = zip(*entries["learning_rate"], strict=True)
    every = range(plan.total_steps)
    np.testing.assert_allclose(
        np.interp(every, steps, rates),
        [plan.learning_rate(step) for step in every],
    )
