"""An elastic job over hosts with sshd: one is lost, another one comes."""

import json
import sys

import pytest

import elastic_jobs
import jobs
from hosts import PORT, Hosts, missing

pytestmark = [
    pytest.mark.horovod,
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


def test_a_host_is_lost_and_another_one_comes(patterns, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    script, variables = elastic_jobs.prepare(job, ["host2", "host3"])
    # The host of rank 0 is the one that is lost, with the run directory's
    # writer; the directory itself is one of all hosts.
    events = {2: ["kill", 0], 3: ["hosts", "host2:1\nhost3:1\nhost4:1\n"]}
    (tmp_path / "hosts").mkdir()
    with Hosts(tmp_path / "hosts", 4) as hosts:
        finished = hosts.run(
            "host1",
            *("horovodrun", "-np", "2", "--min-np", "1", "--max-np", "2"),
            *("--host-discovery-script", str(script), "--disable-cache"),
            *("--network-interface", "eth0"),
            *("-p", str(PORT), "-i", str(hosts.key)),
            *(sys.executable, str(elastic_jobs.PROGRAM), "--elastic"),
            *(*jobs.TINY, *jobs.RECIPE, "--commit_steps=2"),
            *(f"--data_dir={patterns}", f"--workdir={job / 'run'}"),
            environment=jobs.environment()
            | variables
            | {"EVENTS": json.dumps(events)},
            seconds=jobs.TIMEOUT_SECONDS,
        )
    ended = elastic_jobs.Ended(
        0, finished.stdout + finished.stderr, elastic_jobs.read_notes(job)
    )
    assert ended.ranks() == [2, 1, 2], ended.output
    elastic_jobs.require_every_image_once(ended, range(0, 128 * 8 + 1, 128))
    found = [record["step"] for record in jobs.metrics(job / "run")]
    assert found == list(range(1, jobs.RECIPE_STEPS + 1))
