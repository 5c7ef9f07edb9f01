"""How far a run is, and how long it will take."""

import io
import types

import pytest

from hvd_imagenet import flags, pace, progress
from hvd_imagenet.plan import make_plan

_FLAGS = """
--image_size=64
--global_batch_size=10
--batch_size_per_process=10
--epochs=4
--warmup=none
--warmup_epochs=0
--phase_epochs=2
--phase_image_sizes=128
"""


class _Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(
            pace, "time", types.SimpleNamespace(perf_counter=lambda: self.now)
        )

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return _Clock(monkeypatch)


@pytest.fixture
def plan(tmp_path):
    """4 epochs of 10 steps of 10 images; two with four times the pixels."""
    path = tmp_path / "recipe.flags"
    path.write_text(_FLAGS)
    return make_plan(
        flags.read(str(path)),
        world_size=1,
        train_images=100,
        validation_images=10,
    )


def test_pixels_and_pauses_are_what_the_time_is_estimated_by(clock, plan):
    made = pace.Pace(plan)
    clock.wait(50)  # As the first step, which traces.
    made.begin(1)
    assert made.images_per_second is None
    assert made.seconds_left(1) is None
    clock.wait(2)
    assert made.lap(5) == (40, 2.0)
    # 15 steps like the four that took 2 s, and 20 of four times that.
    assert made.seconds_left(5) == pytest.approx(0.5 * (15 + 4 * 20))
    clock.wait(3)
    made.lap(10)
    assert made.images_per_second == 90 / 5
    clock.wait(7)
    made.pause(10)
    assert made.pause_seconds == 7
    per_step = 5 / 9
    assert made.seconds_left(10) == pytest.approx(per_step * 90 + 3 * 7)
    clock.wait(9)
    made.lap(20)
    clock.wait(40)
    made.lap(30)
    assert made.seconds_left(40) == pytest.approx(0)
    assert made.seconds == 54


def test_steps_that_were_done_before_do_not_count(clock, plan):
    made = pace.Pace(plan)
    made.begin(20)
    clock.wait(4)
    made.lap(30)
    assert made.seconds_left(30) == pytest.approx(4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (199, "3 min 19 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (90000, "1 d 01 h"),
        (2e6, "23 d 03 h"),
    ],
)
def test_durations_are_for_people(seconds, text):
    assert pace.duration(seconds) == text


def test_the_live_line_says_where_the_run_is(clock, plan):
    stream = io.StringIO()
    made = pace.Pace(plan)
    latest = {"loss": 0.5, "top1": 0.25, "images_per_second": 20.0}
    log = types.SimpleNamespace(latest={}, pace=made)
    line = progress.LiveLine(plan, log, stream)
    line.on_train_batch_end(10)
    assert "epoch 2/4" in stream.getvalue()
    made.begin(11)
    clock.wait(0.5)
    made.lap(12)
    log.latest = latest
    for step in range(11, 20):
        line.on_train_batch_end(step)
    line._line.refresh()
    shown = stream.getvalue().split("\r")[-1]
    assert "step 20/40" in shown
    assert "loss 0.5000, top-1 25.00%, 20.0 images/s, 40 s left" in shown
    line.on_train_end()


def test_the_summary_says_what_was_reached_and_where(clock, plan):
    made = pace.Pace(plan)
    result = {"top1": 0.5, "top5": 1.0, "loss": 0.25, "examples": 10}
    said = progress.summary(result, made, "runs/a").splitlines()
    assert said == [
        "result: top-1 50.00%, top-5 100.00%, loss 0.2500 on 10 images",
        "run: runs/a (tensorboard --logdir=runs/a/tensorboard)",
    ]
    made.begin(0)
    clock.wait(5)
    made.lap(10)
    clock.wait(61)
    made.pause(10)
    said = progress.summary(result, made, "runs/a").splitlines()
    assert (
        said[1]
        == "time: 5 s of training at 20.0 images/s, 1 min 01 s between epochs"
    )
