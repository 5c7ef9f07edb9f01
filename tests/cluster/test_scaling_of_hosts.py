"""Predicted steps against measured ones, on hosts with links of known rates.

Nothing is fitted: the step is measured on one host alone, the rate is the one
that the links are shaped to.
"""

import json
import pathlib
import re
import sys

import pytest

import jobs
from hosts import PORT, SBIN, Hosts, missing

pytestmark = [
    pytest.mark.horovod,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

_PROGRAM = str(
    pathlib.Path(__file__).parent.parent / "programs" / "timed_exchange.py"
)
_COMPUTE_SECONDS = 1.0
_STEPS = 5


def _program(compression):
    return (_PROGRAM, str(_COMPUTE_SECONDS), str(_STEPS), compression)


# Of 1,514 bytes that a frame counts for in the shaping of a link, those that
# TCP carries: not Ethernet's 14, IP's 20 and TCP's 32 with time stamps.
_PAYLOAD = 1448 / 1514


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts"), 4) as running:
        yield running


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The file of a step that exchanges nothing."""
    path = tmp_path_factory.mktemp("alone") / "train.json"
    finished = jobs.run(0, *_program("none"))
    seconds = _result(finished)["step_seconds"]
    path.write_text(json.dumps({"compute_seconds_per_step": seconds}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "megabits", "compression"),
    [
        (2, 200, "none"),
        (2, 500, "none"),
        (3, 500, "none"),
        (4, 200, "none"),
        (4, 500, "none"),
        (4, 200, "fp16"),
    ],
)
def test_steps_are_as_long_as_predicted(
    hosts, alone, count, megabits, compression
):
    names = hosts.names[:count]
    for name in names:
        hosts.run(
            name,
            *"tc qdisc replace dev eth0 root tbf".split(),
            *f"rate {megabits}mbit burst 256kb latency 50ms".split(),
            environment={"PATH": SBIN},
            seconds=60,
        )
    measured = _result(
        hosts.run(
            "host1",
            "horovodrun",
            *("-np", str(count), "-H", ",".join(f"{n}:1" for n in names)),
            *("-p", str(PORT), "-i", str(hosts.key), "--disable-cache"),
            "--network-interface=eth0",
            *(sys.executable, *_program(compression)),
            environment=jobs.environment(),
            seconds=jobs.TIMEOUT_SECONDS,
        )
    )
    assert measured["processes"] == count
    predicted = json.loads(
        jobs.run(
            0,
            *("-m", "hvd_imagenet.predict_scaling"),
            f"--measured={alone}",
            f"--bandwidth_gbit={megabits / 1e3 * _PAYLOAD}",
            "--cycle_seconds=0.01",
            f"--max_workers={count}",
            f"--compression={compression}",
            "--json_file=-",
        ).stdout
    )["predictions"][-1]
    assert predicted["workers"] == count
    assert predicted["step_seconds"] == pytest.approx(
        measured["step_seconds"], rel=0.1
    )


def _result(finished):
    """What the program's rank 0 printed behind RESULT."""
    (text,) = re.findall(r"RESULT (.*)", finished.stdout)
    return json.loads(text)
