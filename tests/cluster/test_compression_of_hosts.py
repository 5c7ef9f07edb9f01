"""--compression=auto takes what is faster on links of known rates."""

import json
import sys

import pytest

import jobs
from hosts import PORT, SBIN, Hosts, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.horovod,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

_SHAPES = {
    "unlimited": "pfifo",
    "200": "tbf rate 200mbit burst 256kb latency 50ms",
}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts"), 3) as running:
        yield running


# Three hosts without a limit take about as long either way.
@pytest.mark.parametrize(
    ("count", "rate", "chosen"),
    [(2, "unlimited", "none"), (2, "200", "fp16"), (3, "200", "fp16")],
)
def test_the_format_follows_the_network(hosts, count, rate, chosen, tmp_path):
    names = hosts.names[:count]
    for name in names:
        hosts.run(
            name,
            *f"tc qdisc replace dev eth0 root {_SHAPES[rate]}".split(),
            environment={"PATH": SBIN},
            seconds=60,
        )
    hosts.run(
        "host1",
        "horovodrun",
        *("-np", str(count), "-H", ",".join(f"{n}:1" for n in names)),
        *("-p", str(PORT), "-i", str(hosts.key), "--disable-cache"),
        "--network-interface=eth0",
        *(sys.executable, "-m", "hvd_imagenet.train", *jobs.TINY),
        *("--data_format=synthetic", "--train_images=12"),
        *("--validation_images=12", "--batch_size_per_process=2"),
        *("--epochs=1", "--compression=auto", f"--workdir={tmp_path}/run"),
        environment=jobs.environment(),
        seconds=jobs.TIMEOUT_SECONDS,
    )
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    wire = environment["wire"]
    assert wire["compression"] == chosen
    seconds = wire["seconds"]
    # Well apart, or the answer would be luck.
    ratio = seconds["none"] / seconds["fp16"]
    assert ratio < 1.03 if chosen == "none" else ratio > 1.4
