"""The arithmetic behind the benchmark: intervals, operations, shares."""

import math
import os

import psutil
import pytest
import scipy.stats
import tensorflow as tf

from hvd_imagenet import devices
from hvd_imagenet.measuring import (
    flops,
    memory,
    step_times,
    summary,
    training_report,
)
from hvd_imagenet.measuring.step_times import Times
from hvd_imagenet.processes import Processes


def test_the_interval_is_that_of_batch_means():
    # Of 1 to 4: deviation sqrt(5/3), 3 degrees of freedom.
    estimate = summary.estimate([1.0, 2.0, 3.0, 4.0], [5, 5, 5, 5])
    assert estimate.mean == 2.5
    assert estimate.ci95 == pytest.approx(
        3.1824463 * math.sqrt(5 / 3) / 2, rel=1e-5
    )
    weighted = summary.estimate([1.0, 2.0], [1, 3])
    assert weighted.mean == 1.75
    assert summary.estimate([7.0], [3]) == summary.Estimate(mean=7.0, ci95=None)


@pytest.mark.parametrize("count", range(2, summary.MOST_BATCHES + 1))
def test_students_quantiles(count):
    # Deviation of the mean: 1.
    values = [0.0] * (count - 1) + [float(count)]
    estimate = summary.estimate(values, [1] * count)
    assert estimate.ci95 == pytest.approx(
        scipy.stats.t.ppf(0.975, count - 1), rel=1e-6
    )


def test_steps_are_cut_into_batches_of_nearly_one_length():
    assert summary.batch_lengths(1) == [1]
    assert summary.batch_lengths(4) == [1, 1, 1, 1]
    assert summary.batch_lengths(50) == [5] * 10
    lengths = summary.batch_lengths(23)
    assert (sum(lengths), len(lengths), set(lengths)) == (23, 10, {2, 3})


def test_percentiles_and_deviation():
    spread = summary.spread([float(n) for n in range(101)])
    assert (spread.p50, spread.p95, spread.p99) == (50.0, 95.0, 99.0)
    assert spread.std == pytest.approx(math.sqrt(101 * 102 / 12))
    assert summary.spread([2.0]).std == 0.0


def test_the_first_layer_has_no_gradient_of_its_input():
    # Forward 2, backward 4 per multiply-add; of the first layer 2.
    assert flops.training_flops([10, 100]) == 4 * 10 + 6 * 100


def test_a_matrix_product_is_measured():
    peak = flops.matrix_product_peak(tf.float32)
    # From one slow core to the largest accelerator.
    assert 1e8 < peak < 1e16


def test_the_peak_of_memory_is_seen():
    size = 200_000_000
    resident = psutil.Process().memory_info().rss
    buffer = bytearray(b"1") * size
    del buffer
    peaks = memory.peaks()
    # The kernel counts a little late.
    assert 0.95 * (resident + size) < peaks["host_bytes"]
    assert peaks["host_bytes"] < psutil.virtual_memory().total
    assert peaks["gpu_bytes"] is None


def test_kinds_of_steps_take_turns_at_being_first():
    calls, starts = [], []

    class Waiting(Processes):
        def barrier(self):
            starts.append(len(calls))

    def kind(name):
        def run(count):
            calls.append((name, count))
            return Times((1.0,) * count, (0.25,) * count)

        return run

    first, second = step_times.in_turn([kind("a"), kind("b")], 3, Waiting())
    assert calls == [(name, 1) for name in "abbaab"]
    assert starts == list(range(6))
    assert (
        [t.worked for t in first] == [t.worked for t in second] == [[0.75]] * 3
    )


def _rank(seconds, waited, silent, peaks):
    return training_report.Rank(
        blocks=[Times((s, s), (waited, waited)) for s in seconds],
        silent_blocks=silent
        and [Times((s + waited,) * 2, (waited,) * 2) for s in silent],
        matrix_product_peaks=peaks,
        memory={"host_bytes": peaks[0], "gpu_bytes": None},
    )


def _job(processes):
    return training_report.Job(
        model="resnet18",
        image_size=32,
        precision="float32",
        xla=False,
        compression="none",
        transport="shared memory",
        source="synthetic images",
        processes=processes,
        threads_per_process=1,
        batch_size_per_process=8,
        accumulation_steps=2,
        warmup_steps=1,
        forward_multiply_adds=[10, 100],
        variables={},
    )


def test_a_step_is_parted_over_ranks():
    ranks = [
        # Waits 0.1, computes 0.5, the rest is exchange: 0.4 and 0.6.
        _rank([1.0, 1.2], 0.1, [0.5, 0.5], [300, 200]),
        _rank([1.0, 1.2], 0.3, [0.4, 0.6], [100, 500]),
    ]
    result = training_report.report(_job(2), ranks)
    assert result["steps"] == 4
    assert result["global_batch_size"] == 32
    assert result["step_seconds"]["mean"] == pytest.approx(1.1)
    assert result["step_seconds"]["ci95"] == pytest.approx(12.706205 * 0.1)
    assert result["images_per_second"] == pytest.approx(32 / 1.1)
    assert result["images_per_second_ci95"] == pytest.approx(
        32 / 1.1 * 12.706205 * 0.1 / 1.1
    )
    assert result["shares"] == {
        "data_wait": pytest.approx(0.2 / 1.1),
        "compute": pytest.approx(0.5 / 1.1),
        "communication": pytest.approx(0.4 / 1.1),
    }
    # Of the second rank 0.3 and 0.3, of the first 0.4 and 0.6: by block.
    assert result["communication_seconds"]["ci95"] == pytest.approx(
        12.706205 * 0.05
    )
    assert result["compute_seconds_per_step"] == pytest.approx(0.5)
    assert result["jitter"]["p50"] == pytest.approx(1.1)
    assert result["flops"]["share_of_matrix_product"] == pytest.approx(
        640 * 32 / 1.1 / 800
    )
    assert result["peak_memory"]["host_bytes"] == 300
    assert result["ranks"][1]["data_wait_share"] == pytest.approx(0.3 / 1.1)
    assert result["rank0_step_seconds"] == [1.0, 1.0, 1.2, 1.2]


def test_one_process_has_no_communication():
    result = training_report.report(
        _job(1), [_rank([1.0], 0.25, None, [100, 100])]
    )
    assert result["shares"] == {
        "data_wait": 0.25,
        "compute": 0.75,
        "communication": 0.0,
    }
    assert result["step_seconds"]["ci95"] is None
    assert result["compute_seconds_per_step"] == 0.75


def test_fewer_processes_have_their_share_of_the_cores():
    cores = sorted(os.sched_getaffinity(0))
    try:
        devices.limit_cores(1, len(cores))
        assert os.sched_getaffinity(0) == {cores[0]}
    finally:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cores)
    devices.limit_cores(4, 4)
    assert sorted(os.sched_getaffinity(0)) == cores
