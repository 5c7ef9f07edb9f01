"""Elastic jobs under a real horovodrun, to which real faults happen."""

import itertools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import elastic_jobs
import jobs

pytestmark = [pytest.mark.horovod, jobs.needs_own_name]

# Names of this machine, which horovodrun takes for as many hosts.
_A, _B, _C = "localhost", "127.0.0.1", "127.1"


def _train(folder, data_dir, events, *flags, hosts=(_A, _B), launcher=()):
    """Trains under an elastic horovodrun until it ends."""
    script, variables = elastic_jobs.prepare(folder, hosts)
    process = subprocess.Popen(
        [
            *("horovodrun", "-np", str(len(hosts)), "--min-np", "1"),
            *("--max-np", "4", "--host-discovery-script", str(script)),
            *("--network-interface", "lo", "--disable-cache", *launcher),
            *(sys.executable, str(elastic_jobs.PROGRAM), "--elastic"),
            *(*jobs.TINY, *jobs.RECIPE, "--commit_steps=2"),
            *(f"--data_dir={data_dir}", f"--workdir={folder / 'run'}"),
            *flags,
        ],
        env=jobs.environment() | variables | {"EVENTS": json.dumps(events)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=jobs.TIMEOUT_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return elastic_jobs.Ended(
        process.returncode, output, elastic_jobs.read_notes(folder)
    )


def _arrays(workdir, step):
    with np.load(workdir / "checkpoints" / f"step_{step:08d}.npz") as stored:
        return {key: stored[key] for key in stored if key != "facts"}


def _difference(ours, theirs):
    """Largest relative difference of any variable, by norm."""
    assert ours.keys() == theirs.keys()
    return max(
        np.linalg.norm((ours[name] - theirs[name]).ravel())
        / max(np.linalg.norm(theirs[name].ravel()), 1e-3)
        for name in theirs
    )


def _require_the_same_training(workdir, undisturbed):
    ours, theirs = map(jobs.metrics, (workdir, undisturbed))
    assert [m["step"] for m in ours] == [m["step"] for m in theirs]
    for name in ("loss", "top1", "learning_rate", "epoch"):
        np.testing.assert_allclose(
            [m[name] for m in ours], [m[name] for m in theirs], rtol=1e-4
        )
    ours, theirs = (_arrays(each, 8) for each in (workdir, undisturbed))
    assert _difference(ours, theirs) < 1e-3


def test_the_rest_goes_on_when_rank_0_is_killed(runs, patterns, tmp_path):
    ended = _train(tmp_path, patterns, {3: ["kill", 0]})
    assert ended.status == 0, ended.output
    assert ended.ranks() == [2, 1]
    elastic_jobs.require_every_image_once(ended, range(0, 128 * 8 + 1, 128))
    # Step 3 was done, but not committed.
    resumed = min(note["time"] for note in ended.notes if note["ranks"] == 1)
    lost = max(note["time"] for note in ended.notes if note["ranks"] == 2)
    assert resumed - lost < 30
    assert jobs.result(tmp_path / "run")["examples"] == 310
    _require_the_same_training(tmp_path / "run", runs[1])


@pytest.mark.slow
def test_a_failure_and_a_growth_leave_the_result_alone(
    runs, patterns, tmp_path
):
    events = {2: ["kill", 1], 3: ["hosts", f"{_A}:1\n{_B}:1\n{_C}:1\n"]}
    ended = _train(tmp_path, patterns, events)
    assert ended.status == 0, ended.output
    assert ended.ranks() == [2, 1, 2]
    elastic_jobs.require_every_image_once(ended, range(0, 128 * 8 + 1, 128))
    _require_the_same_training(tmp_path / "run", runs[1])


@pytest.mark.slow
def test_a_host_is_used_again_after_its_cooldown(patterns, tmp_path):
    # What the second event waits for comes with the end of the cooldown.
    ended = _train(
        tmp_path,
        patterns,
        {2: ["kill", 1], 3: ["hosts", f"{_A}:1\n{_B}:1\n"]},
        launcher=("--blacklist-cooldown-range", "2", "8"),
    )
    assert ended.status == 0, ended.output
    assert ended.ranks() == [2, 1, 2]
    elastic_jobs.require_every_image_once(ended, range(0, 128 * 8 + 1, 128))


@pytest.mark.slow
def test_three_ranks_share_a_smaller_batch_until_one_leaves(patterns, tmp_path):
    events = {
        1: ["hosts", f"{_A}:1\n{_B}:1\n{_C}:1\n"],
        4: ["hosts", f"{_A}:1\n{_B}:1\n"],
    }
    ended = _train(tmp_path, patterns, events)
    assert ended.status == 0, ended.output
    assert ended.ranks() == [2, 3, 2]
    assert "128 cannot be shared by 3 processes with batches of 32" in (
        ended.output
    )
    # The three are there after the commits of steps 2 and before that of 6.
    batches = [128, 128, 96, 96, 96, 96, 128, 128, 128]
    elastic_jobs.require_every_image_once(
        ended, [0, *itertools.accumulate(batches)]
    )
    metrics = jobs.metrics(tmp_path / "run")
    np.testing.assert_allclose(
        [metric["learning_rate"] for metric in metrics],
        [metrics[0]["learning_rate"] * batch / 128 for batch in batches],
    )
    # Its place in the stream is not where a plain run would take it to be.
    plain = jobs.train(
        0,
        *jobs.RECIPE,
        f"--data_dir={patterns}",
        f"--workdir={tmp_path / 'run'}",
        check=False,
    )
    assert plain.returncode == 1
    assert "add that, or choose another --workdir" in plain.stderr


@pytest.mark.slow
def test_a_rank_that_is_asked_to_stop_is_left_behind(patterns, tmp_path):
    ended = _train(
        tmp_path, patterns, {4: ["terminate", 1]}, "--commit_steps=100"
    )
    assert ended.status == 0, ended.output
    assert ended.ranks() == [2, 1]
    elastic_jobs.require_every_image_once(ended, range(0, 128 * 8 + 1, 128))
    # Asked in step 5, it tells with step 6; the others go on right there.
    assert {note["first_step"] for note in ended.notes} == {0, 6}


@pytest.mark.slow
def test_a_rank_that_hangs_is_left_behind(patterns, tmp_path):
    ended = _train(
        tmp_path,
        patterns,
        {3: ["hang", 1]},
        "--stall_timeout_seconds=20",
    )
    assert ended.status == 0, ended.output
    assert ended.ranks() == [2, 1]
    elastic_jobs.require_every_image_once(ended, range(0, 128 * 8 + 1, 128))


@pytest.mark.slow
def test_too_few_processes_end_the_job_and_it_can_be_resumed(
    patterns, tmp_path
):
    launcher = ("--min-np", "2", "--elastic-timeout", "10")
    ended = _train(tmp_path, patterns, {4: ["kill", 1]}, launcher=launcher)
    assert ended.status != 0
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "run").rename(again / "run")
    resumed = _train(again, patterns, {})
    assert resumed.status == 0
    assert "resumed at step 3" in resumed.output
    steps = [record["step"] for record in jobs.metrics(again / "run")]
    assert steps == list(range(1, 9))
