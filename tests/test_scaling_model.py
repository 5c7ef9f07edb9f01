"""The model of scaling: published numbers, and what must hold of any."""

import itertools
import json

import pytest

from hvd_imagenet import resnet_layers
from hvd_imagenet.scaling import backward, collectives, measured, timeline
from hvd_imagenet.scaling.network import Link, Network
from hvd_imagenet.scaling.prediction import Model, worker_counts

_RESNET50 = backward.of_layers(
    resnet_layers.layers("resnet50", num_classes=1000, image_size=224)
)
_EACH = [collectives.ALGORITHMS, collectives.HIERARCHIES]


def _network(gbit=50.0, microseconds=20.0, **others):
    link = Link(
        latency_seconds=1e-6 * microseconds, seconds_per_byte=8e-9 / gbit
    )
    return Network(between_hosts=link, **others)


def _seconds(count, workers, network, algorithm, hierarchy="flat"):
    return collectives.allreduce_seconds(
        count, workers, network, algorithm=algorithm, hierarchy=hierarchy
    )


def _all_gradients(workers, network, algorithm):
    """Every gradient of ResNet-50 alone, one after the other, in float32."""
    return sum(
        _seconds(4 * elements, workers, network, algorithm)
        for elements in _RESNET50.elements
    )


def _model(**changes):
    values = {
        "compute_seconds": 0.3,
        "backward": _RESNET50,
        "bytes_per_element": 4,
        "network": _network(),
        "algorithm": "ring",
        "hierarchy": "flat",
        "contained": True,
        "fusion": timeline.Fusion(threshold_bytes=2**27, cycle_seconds=0.001),
        "overlap": "layers",
        "processor_seconds_per_byte": 0.0,
        "tail_seconds": 0.0,
    }
    return Model(**values | changes)


# --- Golden values: Goyal 2017, section 4, by its formulas. ---


def test_resnet50_has_102_megabytes_of_gradients():
    assert len(_RESNET50.elements) == 161
    assert 4 * sum(_RESNET50.elements) == 102_228_128


@pytest.mark.parametrize(
    ("gbit", "workers", "halving_ms", "ring_ms"),
    [
        (50, 2, 22.8, 22.8),
        (50, 4, 37.4, 43.9),
        (50, 8, 47.9, 73.7),
        (50, 16, 56.4, 127.3),
        (50, 32, 63.9, 231.3),
        (50, 44, 70.6, 308.9),
        (25, 2, 39.2, 39.2),
        (25, 4, 61.9, 68.4),
        (25, 8, 76.6, 102.3),
        (25, 16, 87.1, 157.9),
        (25, 32, 95.6, 263.0),
        (25, 44, 102.6, 340.9),
    ],
)
def test_golden_time_of_all_gradients(gbit, workers, halving_ms, ring_ms):
    network = _network(gbit)
    for algorithm, expected in (
        ("halving_doubling", halving_ms),
        ("ring", ring_ms),
    ):
        seconds = _all_gradients(workers, network, algorithm)
        assert f"{1e3 * seconds:.1f}" == f"{expected:.1f}", algorithm


@pytest.mark.parametrize(
    ("count", "ratio"), [(4e3, 6.2), (400e3, 4.5), (4e6, 1.9), (40e6, 1.1)]
)
def test_golden_ratio_of_ring_to_halving_and_doubling(count, ratio):
    network = _network(microseconds=25)
    ring, halving = (
        _seconds(count, 32, network, algorithm)
        for algorithm in ("ring", "halving_doubling")
    )
    assert f"{ring / halving:.1f}" == f"{ratio}"


@pytest.mark.parametrize(
    ("workers", "halving_ms", "ring_ms"),
    [(8, 28.9, 29.3), (32, 32.2, 34.8), (128, 33.2, 45.2)],
)
def test_golden_time_of_one_buffer(workers, halving_ms, ring_ms):
    network = _network(microseconds=50)
    for algorithm, expected in (
        ("halving_doubling", halving_ms),
        ("ring", ring_ms),
    ):
        seconds = _seconds(102_228_128, workers, network, algorithm)
        assert f"{1e3 * seconds:.1f}" == f"{expected:.1f}", algorithm


# "Three times as fast" on 32 servers tells alpha, once a bandwidth is taken.
@pytest.mark.parametrize(
    ("gbit", "microseconds"), [(50, 12.3), (25, 24.6), (15, 41)]
)
def test_golden_latency_of_three_times_as_fast(gbit, microseconds):
    network = _network(gbit, microseconds)
    ring, halving = (
        _all_gradients(32, network, algorithm)
        for algorithm in ("ring", "halving_doubling")
    )
    assert ring / halving == pytest.approx(3, rel=0.005)


# --- The formulas, worked out by hand on small cases. ---


@pytest.mark.parametrize(
    ("workers", "ring_steps", "halving_steps"),
    [(2, 2, 2), (3, 4, 4), (4, 6, 4), (6, 10, 6), (8, 14, 6), (44, 86, 12)],
)
def test_steps_of_an_exchange(workers, ring_steps, halving_steps):
    # Of nothing, at a second per message.
    network = _network(microseconds=1e6)
    assert _seconds(0, workers, network, "ring") == ring_steps
    assert _seconds(0, workers, network, "halving_doubling") == halving_steps


@pytest.mark.parametrize("algorithm", collectives.ALGORITHMS)
def test_bytes_and_sums_of_an_exchange(algorithm):
    # 12 bytes at a second each, sums at 100 seconds a byte: on 3 workers each
    # sends two thirds twice, and adds two thirds.
    network = _network(
        gbit=8e-9, microseconds=0, reduction_seconds_per_byte=100.0
    )
    seconds = _seconds(12, 3, network, algorithm)
    assert seconds == pytest.approx(2 * 8 + 8 * 100)


def test_a_ring_waits_for_the_slowest_link():
    slow = Link(latency_seconds=0, seconds_per_byte=3.0)
    network = _network(
        gbit=8e-9, microseconds=0, inside_host=slow, workers_per_host=2
    )
    # 6 steps of a quarter.
    assert _seconds(4, 4, network, "ring") == pytest.approx(6 * 3)
    # Workers of one host have nothing to do with the others' link.
    assert _seconds(4, 2, network, "ring") == pytest.approx(2 * 2 * 3)


def test_workers_of_a_host_share_its_link():
    # A second a byte inside, 10 between hosts; 2 hosts of 4.
    network = Network(
        between_hosts=Link(latency_seconds=0, seconds_per_byte=10.0),
        inside_host=Link(latency_seconds=0, seconds_per_byte=1.0),
        workers_per_host=4,
    )
    # Halves and quarters inside, then all 4 exchange an eighth by one link.
    halving = 2 * (4 + 2 + 4 * 10)
    assert _seconds(8, 8, network, "halving_doubling") == halving
    for algorithm in collectives.ALGORITHMS:
        # All 8 bytes in and out of one worker, 2 x 8/2 over the link.
        leaders = 2 * 8 + 2 * 4 * 10
        assert _seconds(8, 8, network, algorithm, "leaders") == leaders
        # 3 parts of 2 bytes in and out; 2 x 2/2 for each of 4, over one link.
        shards = 2 * 3 * 2 + 2 * 4 * 10
        assert _seconds(8, 8, network, algorithm, "shards") == shards


def test_hosts_must_be_full():
    network = _network(workers_per_host=4)
    with pytest.raises(ValueError, match=r"6 workers do not fill hosts of 4"):
        _seconds(8, 6, network, "ring")


# --- When gradients leave. ---


def _exchange(ready, overlap="layers", threshold=0.0, cycle=0.0, backward=10.0):
    """Of gradients of one byte, at a second per byte."""
    return timeline.run(
        [timeline.Gradient(ready_seconds=at, count=1.0) for at in ready],
        backward,
        timeline.Fusion(threshold_bytes=threshold, cycle_seconds=cycle),
        lambda count: count,
        overlap,
    )


@pytest.mark.parametrize(
    ("ready", "exposed"),
    [
        ([10.0], 1.0),  # The last can never hide.
        ([2.0, 10.0], 1.0),
        ([9.5, 10.0], 1.5),  # It waits for the one before it.
        ([9.0, 9.0, 9.0], 2.0),
        ([1.0, 2.0, 3.0], 0.0),
    ],
)
def test_one_gradient_at_a_time(ready, exposed):
    found = _exchange(ready)
    assert found.exposed_seconds == pytest.approx(exposed)
    assert found.busy_seconds == found.buffers == len(ready)


def test_what_comes_during_an_exchange_is_fused_after_it():
    # The first alone; three come until it is done at 2; the last at its time.
    found = _exchange([1.0, 1.2, 1.4, 2.0, 9.0], threshold=10.0)
    assert found.buffers == 3
    # A buffer of two, and what does not fit.
    found = _exchange([1.0, 1.2, 1.4, 2.0, 9.0], threshold=2.0)
    assert found.buffers == 4


def test_the_last_gradient_waits_for_half_a_cycle():
    found = _exchange([1.0, 10.0], threshold=10.0, cycle=4.0)
    # Looks at 0, 4, 8 and 12.
    assert found.exposed_seconds == pytest.approx(2.0 + 1.0)
    assert found.buffers == 2
    # An exchange that lasts longer than a cycle delays the next look.
    found = _exchange([1.0] * 7 + [10.0], threshold=10.0, cycle=4.0)
    assert found.exposed_seconds == pytest.approx(1.0 + 1.0)


def test_bounds_of_the_overlap():
    ready = [2.0] * 8 + [10.0] * 4
    whole, layers, none = (
        _exchange(ready, overlap).exposed_seconds
        for overlap in ("whole", "layers", "none")
    )
    assert (whole, layers, none) == (2.0, 4.0, 12.0)


@pytest.mark.parametrize(
    ("threshold", "buffers"),
    [(0, [3, 4, 5, 1]), (7, [7, 6]), (4, [3, 4, 5, 1]), (100, [13])],
)
def test_buffers_end_at_the_threshold(threshold, buffers):
    assert list(timeline.fused([3, 4, 5, 1], threshold)) == buffers


# --- The backward pass. ---


def test_gradients_come_last_layer_first():
    assert _RESNET50.elements[:2] == (1000, 2_048_000)
    assert _RESNET50.elements[-1] == 7 * 7 * 3 * 64
    assert list(_RESNET50.ready) == sorted(_RESNET50.ready)
    assert _RESNET50.ready[-1] == 1.0
    # Two thirds, but for the gradient by the images.
    stem = 7 * 7 * 3 * 64 * 112**2
    assert _RESNET50.share == pytest.approx(
        (2 * 4_089_184_256 - stem) / (3 * 4_089_184_256 - stem)
    )


def test_an_unknown_network_is_two_thirds_backward():
    known = backward.of_elements([5, 6, 7, 8])
    assert known.elements == (8, 7, 6, 5)
    assert known.ready == (0.25, 0.5, 0.75, 1.0)
    assert known.share == 2 / 3


# --- What must hold of every prediction. ---

_CASES = list(
    itertools.product(*_EACH, timeline.OVERLAPS, (0, 2**20, 2**27), (1, 4))
)


@pytest.mark.parametrize(
    ("algorithm", "hierarchy", "overlap", "threshold", "per_host"), _CASES
)
def test_properties_of_a_prediction(
    algorithm, hierarchy, overlap, threshold, per_host
):
    inside = Link(latency_seconds=5e-6, seconds_per_byte=1e-10)

    def model(gbit, **changes):
        return _model(
            network=_network(
                gbit, inside_host=inside, workers_per_host=per_host
            ),
            algorithm=algorithm,
            hierarchy=hierarchy,
            contained=False,
            overlap=overlap,
            fusion=timeline.Fusion(
                threshold_bytes=threshold, cycle_seconds=0.0
            ),
            **changes,
        )

    assert model(1).step(1).efficiency == 1.0
    assert model(1, tail_seconds=1.0).step(1).step_seconds == 0.3
    for workers in (2, 4, 12, 44, 4096):
        steps = [model(gbit).step(workers) for gbit in (0.1, 1, 10, 100)]
        for step in steps:
            assert step.exposed_seconds >= 0
            assert 0 < step.efficiency <= 1
            assert step.hosts == max(1, workers // per_host)
        # More bandwidth never makes it slower.
        for slow, fast in itertools.pairwise(steps):
            assert fast.exposed_seconds <= slow.exposed_seconds + 1e-9
        half = model(0.1, bytes_per_element=2).step(workers)
        assert half.exposed_seconds <= steps[0].exposed_seconds
        # Accumulating makes exchanges rarer, not shorter.
        twice = model(1).step(workers, micro_batches=2)
        assert twice.exposed_seconds == steps[1].exposed_seconds
        assert twice.efficiency >= steps[1].efficiency


@pytest.mark.parametrize("algorithm", collectives.ALGORITHMS)
def test_half_precision_halves_what_a_slow_network_takes(algorithm):
    changes = {
        "network": _network(gbit=0.5, microseconds=0),
        "algorithm": algorithm,
        "overlap": "none",
    }
    full, half = (
        _model(bytes_per_element=size, **changes).step(4) for size in (4, 2)
    )
    assert half.exposed_seconds == pytest.approx(full.exposed_seconds / 2)


def test_a_slow_network_is_what_a_step_waits_for():
    # Two workers send 102 MB at 0.5 Gbit/s, once the first are there.
    step = _model(network=_network(gbit=0.5)).step(2)
    expected = 102_228_128 * 8 / 0.5e9
    assert step.exchange_seconds == pytest.approx(expected, rel=0.01)
    assert 0.1 < step.step_seconds - expected < 0.3


@pytest.mark.parametrize(("gbit", "share"), [(1e5, 1.0), (1e-3, 0.5)])
def test_an_exchange_takes_processor_time(gbit, share):
    changes = {"network": _network(gbit, microseconds=0)}
    without = _model(**changes).step(2)
    step = _model(**changes, processor_seconds_per_byte=4e-9).step(2)
    # Half of it is done while the network is waited for.
    expected = share * 4e-9 * 102_228_128
    assert step.processor_seconds == pytest.approx(expected, rel=0.01)
    assert step.step_seconds == without.step_seconds + step.processor_seconds
    alone = _model(processor_seconds_per_byte=4e-9).step(1)
    assert alone.efficiency == 1.0


def test_the_exchange_in_a_host_is_free_where_the_step_contains_it():
    network = _network(workers_per_host=8)
    contained = _model(network=network, tail_seconds=0.1).step(8)
    assert contained.efficiency == 1.0
    assert contained.buffers == 0
    assert _model(network=network, contained=False).step(8).buffers > 0


@pytest.mark.parametrize(
    ("per_host", "most", "expected"),
    [
        (1, 8, [1, 2, 4, 8]),
        (1, 6, [1, 2, 4, 6]),
        (8, 352, [1, 2, 4, 8, 16, 32, 64, 128, 256, 352]),
        (6, 24, [1, 2, 4, 6, 12, 24]),
        (8, 3, [1, 2, 3]),
        (4, 1, [1]),
    ],
)
def test_numbers_of_workers(per_host, most, expected):
    assert worker_counts(per_host, most) == expected


# --- A measured step. ---


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"mode": "train", "compute_seconds_per_step": 4.25}, 4.25),
        ({"compute_seconds_per_step": 8, "accumulation_steps": 4}, 2.0),
        ({"compute_seconds_per_step": 8, "image_size": 224}, 8),
    ],
)
def test_a_measured_step_is_read(said, expected, tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(said))
    found = measured.micro_batch_seconds(str(path), {"image_size": 224})
    assert found == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[1]", "is no JSON object"),
        ("{}", "lacks compute_seconds_per_step"),
        ('{"compute_seconds_per_step": "1"}', "has '1' for"),
        ('{"compute_seconds_per_step": true}', "has True for"),
        ('{"compute_seconds_per_step": 0}', "has 0 for"),
        ('{"compute_seconds_per_step": NaN}', "has nan for"),
        (
            '{"compute_seconds_per_step": 1, "accumulation_steps": 0}',
            "has 0 for accumulation_steps",
        ),
        (
            '{"compute_seconds_per_step": 1, "image_size": 64}',
            "is of image_size=64, and 224 is asked for",
        ),
    ],
)
def test_what_tells_no_step_is_refused(text, named, tmp_path):
    path = tmp_path / "train.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=named) as caught:
        measured.micro_batch_seconds(str(path), {"image_size": 224})
    assert f"--measured={path}" in str(caught.value)
