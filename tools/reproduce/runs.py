"""Trains what the experiments need, and keeps what came out of each run."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import flags as absl_flags

from experiments import Variant
from hvd_imagenet import flags

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Of the site, not of the recipe: one thread each, so that runs side by side do
# not disturb each other, and evaluation at the end alone.
_SITE = (
    "--input_threads=1",
    "--log_steps=1",
    "--keep_checkpoints=1",
    "--evaluation_every_epochs=1000",
    "--evaluation_batch_size_per_process=122",
)
_ONE_THREAD = {
    name: "1"
    for name in (
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "OMP_NUM_THREADS",
    )
}
# A run takes about a minute of a core; a busy machine may take many.
_TIMEOUT_SECONDS = 3600
# From what the trainer says where a loss or a gradient is inf or nan.
_DIVERGED = "lower the learning rate or lengthen the warmup"


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: a variant and a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.variant.name}-seed{self.seed}"

    def flags(self) -> list[str]:
        """What decides the result."""
        return [
            f"--flagfile={_REPOSITORY / self.variant.flagfile}",
            *self.variant.flags,
            f"--seed={self.seed}",
        ]

    def command(self, data: str, workdir: str) -> list[str]:
        """The whole command line."""
        program = ["-m", "hvd_imagenet.train"]
        if self.variant.change:
            here = _REPOSITORY / "tools" / "reproduce" / "train_changed.py"
            program = [str(here), self.variant.change]
        launcher = []
        if self.variant.processes > 1:
            launcher = ["horovodrun", "-np", str(self.variant.processes)]
        return [
            *launcher,
            sys.executable,
            *program,
            *self.flags(),
            *_SITE,
            f"--data_dir={data}",
            f"--workdir={workdir}",
        ]

    def asked(self) -> dict:
        """What a kept outcome must be of, to be this run's."""
        values = absl_flags.FlagValues()
        flags.define(values)
        config = flags.parse(["train", *self.flags()], values)
        asked = {
            "recipe": config.recipe(),
            "change": self.variant.change,
            "processes": self.variant.processes,
        }
        # As it is read back: tuples become lists.
        return json.loads(json.dumps(asked))


def outcome(directory: pathlib.Path, run: Run) -> dict | None:
    """What came out of a run; None where it has not ended.

    Returns:
        error: share of the validation images, 0 to 1; None where it diverged.
        loss: of the validation images.
        train_loss: mean over the last epoch; None where it diverged.
        losses: [steps] of the training, by step.
        seconds: it took.
    """
    try:
        text = (directory / "outcomes" / f"{run.name}.json").read_text()
    except FileNotFoundError:
        return None
    kept = json.loads(text)
    return kept if kept["asked"] == run.asked() else None


def train_all(
    directory: pathlib.Path, runs: Sequence[Run], data: str, jobs: int
) -> None:
    """Trains what has no outcome yet: one process per core, then several.

    Raises:
        RuntimeError: a training failed; the others are done.
    """
    for folder in ("outcomes", "runs"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    waiting = [run for run in runs if outcome(directory, run) is None]
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs are done already.")
    cores = sorted(os.sched_getaffinity(0))
    free = queue.SimpleQueue()
    for slot in range(jobs):
        free.put({cores[slot % len(cores)]})
    failed = []
    alone = [run for run in waiting if run.variant.processes == 1]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:

        def train_on_a_core(run):
            core = free.get()
            try:
                _train(directory, run, data, core, failed)
            finally:
                free.put(core)

        try:
            list(pool.map(train_on_a_core, alone))
        except BaseException:
            # Ctrl-C reaches the trainings too, but nobody tells the pool.
            pool.shutdown(cancel_futures=True)
            raise
    for run in waiting:
        if run.variant.processes > 1:
            _train(directory, run, data, set(cores), failed)
    if failed:
        raise RuntimeError(f"these runs failed: {', '.join(failed)}")


def _train(directory, run, data, cores, failed) -> None:
    # Of this thread, and so of the process that it starts.
    os.sched_setaffinity(0, cores)
    workdir = directory / "runs" / run.name
    log = directory / "runs" / f"{run.name}.log"
    begun = time.monotonic()
    with open(log, "w") as output:
        try:
            status = subprocess.run(
                run.command(data, str(workdir)),
                cwd=_REPOSITORY,
                env=os.environ | _ONE_THREAD,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            status = "timeout"
    seconds = time.monotonic() - begun
    diverged = status == 1 and _DIVERGED in log.read_text()
    if status != 0 and not diverged:
        print(f"{run.name}: FAILED ({status}), see {log}", flush=True)
        failed.append(run.name)
        return
    found = {"asked": run.asked(), "seconds": round(seconds, 1)}
    found |= _read(workdir, diverged)
    path = directory / "outcomes" / f"{run.name}.json"
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(found))
    temporary.rename(path)
    # Of 90 MB, of which nobody needs the checkpoint.
    shutil.rmtree(workdir)
    said = "diverged" if diverged else f"error {found['error']:.2%}"
    print(f"{run.name}: {said}, {seconds:.0f} s", flush=True)


def _read(workdir: pathlib.Path, diverged: bool) -> dict:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [
        entry for entry in map(json.loads, lines) if entry["kind"] == "train"
    ]
    losses = [entry["loss"] for entry in steps]
    if diverged:
        return dict.fromkeys(("error", "loss", "train_loss")) | {
            "losses": losses
        }
    plan = json.loads((workdir / "plan.json").read_text())
    result = json.loads((workdir / "result.json").read_text())
    last = losses[[0, *plan["epoch_end_steps"]][-2] :]
    return {
        "error": 1.0 - result["top1"],
        "loss": result["loss"],
        "train_loss": sum(last) / len(last),
        "losses": losses,
    }
