"""From the times that every rank measured to what is said about a step."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hvd_imagenet.measuring import flops, summary
from hvd_imagenet.measuring.step_times import Times


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What was measured.

    Attributes:
        forward_multiply_adds: per image, of every layer.
        variables: environment variables that steer the exchange.
        (others): as the flags and plan of that name.
    """

    model: str
    image_size: int
    precision: str
    xla: bool
    compression: str
    transport: str
    source: str
    processes: int
    threads_per_process: int
    batch_size_per_process: int
    accumulation_steps: int
    warmup_steps: int
    forward_multiply_adds: Sequence[int]
    variables: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rank:
    """What a rank measured.

    Attributes:
        blocks: steps of the training.
        silent_blocks: as many that exchange nothing; None where there is
            nobody to exchange with.
        matrix_product_peaks: floating-point operations per second, before and
            after.
        memory: of `memory.peaks`.
    """

    blocks: Sequence[Times]
    silent_blocks: Sequence[Times] | None
    matrix_product_peaks: Sequence[float]
    memory: Mapping[str, int | None]

    @property
    def without_exchange(self) -> Sequence[Times]:
        """Blocks whose work is computation alone."""
        return self.blocks if self.silent_blocks is None else self.silent_blocks


def report(job: Job, ranks: Sequence[Rank]) -> dict[str, Any]:
    """Everything that is said, as JSON.

    Times are in seconds per step, means over ranks; "ci95" is half the width
    of the mean's 95 % confidence interval by batch means (`summary`).
    Communication is what a step takes more than one that exchanges nothing: of
    the exchange what is not hidden behind computation, and the wait for slower
    ranks.
    """
    lengths = [len(block.seconds) for block in ranks[0].blocks]
    step = _estimate([_means(r.blocks, "seconds") for r in ranks], lengths)
    waited = _estimate([_means(r.blocks, "waited") for r in ranks], lengths)
    compute = _estimate(
        [_means(r.without_exchange, "worked") for r in ranks], lengths
    )
    communication = _estimate([_communication(r) for r in ranks], lengths)
    images = job.processes * job.batch_size_per_process * job.accumulation_steps
    per_image = flops.training_flops(job.forward_multiply_adds)
    rate = images / step.mean
    # Of each rank the better one: something else may have run meanwhile.
    peak = sum(max(rank.matrix_product_peaks) for rank in ranks)
    job_facts = dataclasses.asdict(job)
    del job_facts["forward_multiply_adds"], job_facts["variables"]
    return {
        "mode": "train",
        **job_facts,
        "global_batch_size": images,
        "steps": sum(lengths),
        "images_per_second": rate,
        # As much of it as of the step's time.
        "images_per_second_ci95": step.ci95 and rate * step.ci95 / step.mean,
        "step_seconds": dataclasses.asdict(step),
        "interval": f"95 %, batch means of {len(lengths)} blocks of steps",
        "jitter": dataclasses.asdict(
            summary.spread(_all(ranks, "blocks", "seconds"))
        ),
        "compute_seconds_per_step": statistics.median(
            _all(ranks, "without_exchange", "worked")
        ),
        "data_wait_seconds": dataclasses.asdict(waited),
        "compute_seconds": dataclasses.asdict(compute),
        "communication_seconds": dataclasses.asdict(communication),
        "shares": {
            "data_wait": waited.mean / step.mean,
            "compute": compute.mean / step.mean,
            "communication": communication.mean / step.mean,
        },
        "peak_memory": {
            name: max(rank.memory[name] for rank in ranks)
            if ranks[0].memory[name] is not None
            else None
            for name in ("host_bytes", "gpu_bytes")
        },
        "flops": {
            "forward_multiply_adds_per_image": sum(job.forward_multiply_adds),
            "training_flops_per_image": per_image,
            "flops_per_second": rate * per_image,
            "matrix_product_flops_per_second": peak,
            "share_of_matrix_product": rate * per_image / peak,
        },
        "ranks": [_of_rank(rank) for rank in ranks],
        "rank0_step_seconds": _flat(ranks[0].blocks, "seconds"),
        "variables": dict(job.variables),
    }


def _means(blocks: Sequence[Times], name: str) -> list[float]:
    return [statistics.fmean(getattr(block, name)) for block in blocks]


def _communication(rank: Rank) -> list[float]:
    """What the exchange adds to a step, by pairs of neighbouring blocks."""
    both = zip(
        _means(rank.blocks, "worked"),
        _means(rank.without_exchange, "worked"),
        strict=True,
    )
    return [total - compute for total, compute in both]


def _estimate(
    by_rank: Sequence[Sequence[float]], lengths: Sequence[int]
) -> summary.Estimate:
    """Mean over ranks, block by block: what happens to one reaches all."""
    means = [statistics.fmean(block) for block in zip(*by_rank, strict=True)]
    return summary.estimate(means, lengths)


def _flat(blocks: Sequence[Times], name: str) -> list[float]:
    return list(itertools.chain(*(getattr(block, name) for block in blocks)))


def _all(ranks: Sequence[Rank], kind: str, name: str) -> list[float]:
    return [x for rank in ranks for x in _flat(getattr(rank, kind), name)]


def _of_rank(rank: Rank) -> dict[str, Any]:
    seconds = _flat(rank.blocks, "seconds")
    return {
        "step_seconds": statistics.fmean(seconds),
        **dataclasses.asdict(summary.spread(seconds)),
        "data_wait_share": sum(_flat(rank.blocks, "waited")) / sum(seconds),
        "matrix_product_flops_per_second": list(rank.matrix_product_peaks),
        **rank.memory,
    }


def table(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The result for people: what, and how much."""
    jitter, arithmetic = result["jitter"], result["flops"]
    percentiles = (f"{jitter[name]:.4g}" for name in ("p50", "p95", "p99"))
    rate = _with_interval(
        result["images_per_second"], result["images_per_second_ci95"]
    )
    rows = [
        ("processes", str(result["processes"])),
        ("images/s", rate),
        ("step [s]", _with_interval(**result["step_seconds"])),
        ("  p50, p95, p99", ", ".join(percentiles)),
        ("  standard deviation", f"{jitter['std']:.3g}"),
    ]
    for name, share in result["shares"].items():
        seconds = _with_interval(**result[f"{name}_seconds"])
        rows.append((f"  {name.replace('_', ' ')}", f"{seconds} ({share:.1%})"))
    tera = {name: value / 1e12 for name, value in arithmetic.items()}
    rows.append(
        (
            "TFLOP/s",
            f"{tera['flops_per_second']:.4g},"
            f" {arithmetic['share_of_matrix_product']:.1%} of a matrix"
            f" product's {tera['matrix_product_flops_per_second']:.4g}",
        )
    )
    for name, size in result["peak_memory"].items():
        if size is not None:
            device = name.removesuffix("_bytes")
            rows.append((f"peak {device} memory [GiB]", f"{size / 2**30:.3g}"))
    return rows


def _with_interval(mean: float, ci95: float | None) -> str:
    return f"{mean:.4g}" + (f" ± {ci95:.2g}" if ci95 is not None else "")
