"""What the index of ImageNet's 1,281,167 records in 1,024 files costs.

    python tests/programs/index_at_scale.py DIRECTORY [PROCESSES]

Writes small records to DIRECTORY, where they are missing, and prints one JSON
line for the first start, which walks through the files, and one for each of
PROCESSES (default 4) that start at once with the index that it has left:
seconds to the open source, microseconds per read and per name of a record, and
MB of memory more than before, all of them and those that the process shares
with no other.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

from hvd_imagenet import framing, imagenet, splits
from hvd_imagenet.config import Config, DataConfig

_FILES = 1024
_READS = 2000


def main() -> None:
    directory = pathlib.Path(sys.argv[1])
    if len(sys.argv) > 2 and sys.argv[2] == "measure":
        measure(directory, sys.stdin)
        return
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    write(directory)
    index = directory / ".train.index.npz"
    index.unlink(missing_ok=True)
    for count, name in ((1, "first start"), (processes, "with the index")):
        started = [
            subprocess.Popen(
                [sys.executable, __file__, os.fspath(directory), "measure"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]
        lines = [process.stdout.readline() for process in started]
        for line, process in zip(lines, started, strict=True):
            # All of them are there while each looks at what it shares.
            facts = json.loads(line)
            process.stdin.write("\n")
            process.stdin.flush()
            facts |= json.loads(process.stdout.readline())
            print(json.dumps({"start": name} | facts), flush=True)
        for process in started:
            process.communicate(timeout=60)


def write(directory: pathlib.Path) -> None:
    """Records of one byte, as many as ImageNet has."""
    directory.mkdir(parents=True, exist_ok=True)
    record = b"".join(framing.framed(b"x"))
    for file in range(_FILES):
        first, end = (
            imagenet.TRAIN_IMAGES * number // _FILES
            for number in (file, file + 1)
        )
        path = directory / f"train-{file:05d}-of-{_FILES:05d}"
        if not path.exists():
            path.write_bytes(record * (end - first))


def measure(directory: pathlib.Path, wait) -> None:
    """Opens the data, and tells what that took."""
    config = Config(data=DataConfig(data_dir=os.fspath(directory)))
    before = _memory()
    start = time.perf_counter()
    source = splits.open_split(config, "train")
    seconds = time.perf_counter() - start
    assert len(source) == imagenet.TRAIN_IMAGES
    # All of the index is touched, as in an epoch.
    numbers = range(0, len(source), len(source) // _READS)
    start = time.perf_counter()
    for number in numbers:
        source.read(number)
    read = (time.perf_counter() - start) / len(numbers)
    start = time.perf_counter()
    for number in numbers:
        source.where(number)
    where = (time.perf_counter() - start) / len(numbers)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "read_us": round(read * 1e6, 1),
                "where_us": round(where * 1e6, 1),
            }
        ),
        flush=True,
    )
    wait.readline()
    after = _memory()
    print(
        json.dumps(
            {
                "resident_mb": round(after["Rss"] - before["Rss"], 1),
                "private_mb": round(after["Private"] - before["Private"], 1),
            }
        ),
        flush=True,
    )
    wait.read()


def _memory() -> dict[str, float]:
    """MB in memory, and MB of those that no other process has."""
    totals = {"Rss": 0.0, "Private": 0.0}
    for line in pathlib.Path("/proc/self/smaps_rollup").read_text().split("\n"):
        for name in totals:
            if line.startswith((f"{name}:", f"{name}_")):
                totals[name] += int(line.split()[1]) * 1024 / 1e6
    return totals


if __name__ == "__main__":
    main()
