"""The profile of some steps: which ones it has, and that it ends nothing."""

import keras
import tensorflow as tf

# Of TensorFlow's own, what TensorBoard reads.
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from hvd_imagenet import training_loop
from hvd_imagenet.config import Config, OptimizationConfig, ScheduleConfig
from hvd_imagenet.plan import make_plan
from hvd_imagenet.profiling import ProfileSteps


class _Trainer:
    """Does a little in every step."""

    def __init__(self):
        self.model = keras.Model()

    def train_step(self, batches, accumulation_steps):
        return tf.reduce_sum(tf.random.normal([16, 16]))


def _run(callback, steps, first_step=0):
    config = Config(
        optimization=OptimizationConfig(
            epochs=1, global_batch_size=1, batch_size_per_process=1
        ),
        schedule=ScheduleConfig(warmup_epochs=0),
    )
    plan = make_plan(
        config, world_size=1, train_images=steps, validation_images=1
    )
    training_loop.fit(
        _Trainer(), plan, None, callbacks=[callback], first_step=first_step
    )


def _steps(folder):
    """Numbers of the steps that the one profile in a folder tells apart."""
    (profile,) = folder.glob("plugins/profile/*/*.xplane.pb")
    found = []
    for plane in xplane_pb2.XSpace.FromString(profile.read_bytes()).planes:
        events = {e.id: e.name for e in plane.event_metadata.values()}
        stats = {s.id: s.name for s in plane.stat_metadata.values()}
        for line in plane.lines:
            for event in line.events:
                if events[event.metadata_id] == "train":
                    values = {
                        stats[s.metadata_id]: s.int64_value or s.uint64_value
                        for s in event.stats
                    }
                    # Else it is no step to TensorBoard.
                    assert values["_r"] == 1
                    found.append(values["step_num"])
    return found


def test_it_has_the_steps_that_were_asked_for(tmp_path):
    _run(ProfileSteps(str(tmp_path), 2, 4), 6)
    assert _steps(tmp_path) == [2, 3, 4]


def test_it_has_what_a_training_that_ends_before_has_done(tmp_path):
    _run(ProfileSteps(str(tmp_path), 2, 9), 4)
    assert _steps(tmp_path) == [2, 3, 4]


def test_a_run_that_is_resumed_within_it_has_the_rest(tmp_path):
    _run(ProfileSteps(str(tmp_path), 2, 4), 6, first_step=2)
    assert _steps(tmp_path) == [3, 4]


def test_a_profile_that_cannot_be_is_said_once(tmp_path, caplog):
    tf.profiler.experimental.start(str(tmp_path / "another"))
    try:
        _run(ProfileSteps(str(tmp_path), 2, 4), 6)
    finally:
        tf.profiler.experimental.stop(save=False)
    warned = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 1
    assert "There will be no profile" in warned[0].getMessage()
