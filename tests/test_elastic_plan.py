"""Plans of runs whose number of processes changes."""

import dataclasses
import random

import pytest

from hvd_imagenet import phases as phases_lib
from hvd_imagenet.config import (
    Config,
    ModelConfig,
    OptimizationConfig,
    PhaseConfig,
    RunConfig,
    ScheduleConfig,
)
from hvd_imagenet.phases import Begun
from hvd_imagenet.plan import make_plan

_IMAGES = 10_000


def _config(global_batch=96, phases=None, **schedule):
    return Config(
        model=ModelConfig(image_size=16),
        optimization=OptimizationConfig(
            epochs=3, global_batch_size=global_batch, batch_size_per_process=8
        ),
        schedule=ScheduleConfig(
            **(
                {
                    "warmup": "none",
                    "schedule": "constant",
                    "base_batch_size": 96,
                    "base_learning_rate": 1.0,
                }
                | schedule
            )
        ),
        phases=phases or PhaseConfig(),
        run=RunConfig(elastic=True),
    )


def _plan(config, world_size, begun=None):
    return make_plan(
        config,
        world_size=world_size,
        train_images=_IMAGES,
        validation_images=10,
        begun=begun,
    )


def _after(plan, step):
    return Begun(step=step, phases=plan.phases)


@pytest.mark.parametrize(
    ("world_size", "batch", "accumulation"),
    [
        (1, 96, 12),
        (4, 96, 3),
        (5, 80, 2),
        (7, 56, 1),
        (12, 96, 1),
        # More processes than micro-batches: none of them can be smaller.
        (13, 104, 1),
        (24, 192, 1),
    ],
)
def test_the_largest_batch_that_can_be_shared(world_size, batch, accumulation):
    plan = _plan(_config(), world_size)
    (phase,) = plan.phases.phases
    assert phase.global_batch_size == batch
    assert phase.accumulation_steps == accumulation
    assert plan.learning_rate(0) == pytest.approx(batch / 96)
    # The first step at which three epochs are complete.
    assert (plan.total_steps - 1) * batch < 3 * _IMAGES
    assert plan.total_steps * batch >= 3 * _IMAGES


@pytest.mark.parametrize("schedule", ["steps", "cosine"])
@pytest.mark.parametrize("step", [0, 1, 104, 105, 200, 313])
def test_worlds_that_divide_leave_no_trace(step, schedule):
    config = _config(
        schedule=schedule,
        warmup="gradual",
        warmup_epochs=1.0,
        warmup_learning_rate=0.1,
    )
    phased = dataclasses.replace(
        config,
        phases=PhaseConfig(
            phase_epochs=(1.0, 2.5), phase_global_batch_sizes=(192, 48)
        ),
    )
    for asked in (config, phased):
        begun = _after(_plan(asked, 3), step)
        for world_size in (1, 2, 6):
            plan = _plan(asked, world_size, begun)
            afresh = _plan(asked, world_size)
            assert plan.schedule == afresh.schedule
            assert plan.total_steps == afresh.total_steps
            assert plan.phase(step) == afresh.phase(step)
            # What is over stays as it was done.
            assert _without_shares(plan) == _without_shares(afresh)


def _without_shares(plan):
    return [
        dataclasses.replace(phase, accumulation_steps=0)
        for phase in plan.phases.phases
    ]


def test_golden_change_of_the_batch():
    config = _config(schedule="steps", decay_epochs=(1.0, 2.0))
    first = _plan(config, 4)
    plan = _plan(config, 5, _after(first, 50))
    # 50 steps of 96 are 4,800 images; 5,200, 15,200 and 25,200 are left until
    # the epochs' ends, in steps of 80.
    assert [plan.epoch_end_step(epoch) for epoch in range(3)] == [115, 240, 365]
    assert plan.total_steps == 365
    rates = {49: 1, 50: 5 / 6, 114: 5 / 6, 115: 5 / 60, 240: 5 / 600}
    for step, rate in rates.items():
        assert plan.learning_rate(step) == pytest.approx(rate)
    back = _plan(config, 2, _after(plan, 60))
    assert [
        (p.first_step, p.first_position, p.global_batch_size)
        for p in back.phases.phases
    ] == [(0, 0, 96), (50, 4800, 80), (60, 5600, 96)]
    assert back.learning_rate(60) == 1.0
    assert back.epoch_end_step(0) == 60 + 46


def test_a_change_at_the_step_of_a_phase():
    config = _config(
        phases=PhaseConfig(
            phase_epochs=(1.0, 2.0), phase_global_batch_sizes=(192, 48)
        )
    )
    # The second phase begins at step 105, which is done in neither case.
    for step, batches in ((105, [96, 160, 40]), (104, [96, 80, 160, 40])):
        plan = _plan(config, 5, _after(_plan(config, 4), step))
        sizes = [phase.global_batch_size for phase in plan.phases.phases]
        assert sizes == batches
        assert plan.images_before(step) == step * 96
    assert plan.phase(105).first_position == 104 * 96 + 80


@pytest.mark.parametrize("seed", range(5))
def test_every_image_once_in_any_sequence_of_worlds(seed):
    # As a run does: steps are done in one world after another, some of them
    # lost again and done anew from an earlier step.
    draw = random.Random(seed)
    config = _config(
        phases=PhaseConfig(
            phase_epochs=(0.5, 1.7),
            phase_global_batch_sizes=(192, 48),
            phase_batch_sizes_per_process=(16, 8),
        )
    )
    plan, step, seen = _plan(config, 3), 0, {}
    while step < plan.total_steps:
        world_size = draw.choice([1, 2, 3, 4, 5, 7, 11])
        plan = _plan(config, world_size, _after(plan, step))
        end = min(step + draw.randrange(1, 40), plan.total_steps)
        for done in range(step, end):
            seen[done] = [
                place
                for index in range(plan.phase(done).accumulation_steps)
                for rank in range(world_size)
                for place in plan.micro_batch(done, index, rank)
            ]
            assert len(seen[done]) == plan.phase(done).global_batch_size
        # At most back to where this world began: that was committed.
        step = draw.randrange(step, end + 1)
        seen = {done: places for done, places in seen.items() if done < step}
    places = [place for done in sorted(seen) for place in seen[done]]
    assert places == list(range(len(places)))
    assert 3 * _IMAGES <= len(places) < 3 * _IMAGES + 48


def test_phases_are_read_from_a_written_plan():
    config = _config()
    plan = _plan(config, 5, _after(_plan(config, 4), 50))
    assert phases_lib.read(plan.as_json()) == plan.phases
    with pytest.raises(ValueError, match="no plan"):
        phases_lib.read('{"phases": [{"epoch": 0}]}')


def test_without_elastic_such_a_world_is_refused():
    config = dataclasses.replace(_config(), run=RunConfig())
    with pytest.raises(ValueError, match=r"=96 is not divisible"):
        _plan(config, 5)
