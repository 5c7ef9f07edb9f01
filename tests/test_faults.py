"""What happens to one rank ends all of them in order, and nothing is lost."""

import pathlib
import re
import time

import pytest

import jobs

_PROGRAM = pathlib.Path(__file__).parent / "programs" / "train_with_fault.py"


def _train(fault, patterns, workdir, *flags, processes=2):
    return jobs.run(
        processes,
        str(_PROGRAM),
        *jobs.TINY,
        *jobs.RECIPE,
        f"--data_dir={patterns}",
        f"--workdir={workdir}",
        *flags,
        check=False,
        FAULT=fault,
    )


@pytest.mark.horovod
def test_a_signal_to_any_rank_stops_all_with_a_checkpoint(patterns, tmp_path):
    stopped = _train("terminate:1:3", patterns, tmp_path)
    assert stopped.returncode != 0
    said = stopped.stdout + stopped.stderr
    assert "SIGTERM: all ranks will stop" in said
    assert "stopped on request after step 5;" in said
    assert "Exit code: 75" in said  # As documented.
    saved = sorted(path.name for path in tmp_path.glob("checkpoints/*.npz"))
    assert saved[-1] == "step_00000005.npz"
    # What follows is what would have been.
    resumed = jobs.train(
        2, *jobs.RECIPE, f"--data_dir={patterns}", f"--workdir={tmp_path}"
    )
    assert "resumed at step 5" in resumed.stdout
    steps = [record["step"] for record in jobs.metrics(tmp_path)]
    assert steps == list(range(1, jobs.RECIPE_STEPS + 1))


@pytest.mark.horovod
def test_a_nan_on_one_rank_stops_all_at_that_step(patterns, tmp_path):
    ended = _train("nan:1:4", patterns, tmp_path)
    assert ended.returncode != 0
    said = ended.stdout + ended.stderr
    fault = "the weight stage2_block1_conv1/kernel is inf or nan on rank 1 ("
    assert f"in step 5 {fault}" in said
    assert "<stderr>:Traceback" not in said
    saved = sorted(path.name for path in tmp_path.glob("checkpoints/*.npz"))
    assert saved == ["step_00000003.npz"]


def _last_words(finished):
    """What ranks wrote, up to what the launcher says at the end."""
    lines = finished.stderr.splitlines()
    # The shell between launcher and rank says Killed.
    return [
        line
        for line in lines
        if line.startswith("[") and not line.endswith(":Killed")
    ]


@pytest.mark.horovod
def test_the_first_error_is_the_last_word(patterns, tmp_path):
    ended = _train("raise:1:4", patterns, tmp_path)
    assert ended.returncode != 0
    *_, error, where = _last_words(ended)
    assert "RuntimeError: something that nobody has thought of" in error
    assert re.search(r"This was rank 1 \(.+\)\.$", where)
    # The other one says nothing of its own.
    assert "[0]<stderr>:Traceback" not in ended.stderr


@pytest.mark.horovod
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_rank_is_named_and_ends_the_job(patterns, tmp_path, rank):
    begun = time.monotonic()
    ended = _train(f"kill:{rank}:4", patterns, tmp_path)
    assert ended.returncode != 0
    last = _last_words(ended)[-1]
    assert re.search(
        rf"error: rank {rank} \(.+, process \d+\) has ended without a word",
        last,
    )
    # Said every second, so it may be one of the steps before.
    assert re.search(r"step [1-5]\. The same command resumes", last)
    assert time.monotonic() - begun < 120


@pytest.mark.horovod
@pytest.mark.parametrize(
    ("fault", "rank"),
    [
        ("freeze", 1),
        pytest.param("hang", 0, marks=pytest.mark.slow),
        pytest.param("hang", 1, marks=pytest.mark.slow),
        pytest.param("freeze", 0, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_stands_still_is_named(patterns, tmp_path, rank, fault):
    ended = _train(
        f"{fault}:{rank}:4", patterns, tmp_path, "--stall_timeout_seconds=20"
    )
    assert ended.returncode != 0
    words = {
        "freeze": "has not been heard of for 2. s",
        "hang": "has made no progress for 20 s, and the others wait for it",
    }
    said = rf"error: rank {rank} \(.+, process \d+\) {words[fault]}"
    assert re.search(said, _last_words(ended)[-1])
    if fault == "hang":
        # Where in the code it hangs.
        assert f"where rank {rank} is:" in ended.stderr
        assert re.search(r"File .*train_with_fault.py.*in _hang", ended.stderr)


@pytest.mark.slow
@pytest.mark.horovod
@pytest.mark.parametrize("rank", [0, 1])
def test_a_frozen_rank_is_named_when_gloo_gives_up_before(
    patterns, tmp_path, rank
):
    # Gloo's own bound on an exchange is 30 s.
    ended = _train(
        f"freeze:{rank}:4", patterns, tmp_path, "--stall_timeout_seconds=200"
    )
    assert ended.returncode != 0
    said = rf"error: rank {rank} \(.+, process \d+\) has not been heard of for"
    assert re.search(rf"{said} \d\d s", _last_words(ended)[-1])
