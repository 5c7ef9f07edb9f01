"""Packs a data set: plans, resumes, writes and sums up."""

import contextlib
import dataclasses
import errno
import glob
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tqdm

from hvd_imagenet import imagenet, label_offset
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.packing import farm, manifest
from hvd_imagenet.packing.journal import Journal
from hvd_imagenet.packing.options import PackOptions
from hvd_imagenet.packing.shards import (
    Report,
    Shard,
    ShardWorker,
    temporary_path,
)

_WORKDIR = ".pack"
_SAMPLES = 64
_LINE_SECONDS = 30
# Also by a quota or a limit on the size of files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_INTERRUPTED = 130  # As shells report a program that SIGINT ended.


class _Work:
    """A task of either kind, for `farm.run`."""

    def __init__(self, worker: ShardWorker):
        self._worker = worker

    def __call__(self, task: Shard | Report, tell: Callable[[int], None]):
        if isinstance(task, Shard):
            return self._worker.write(task, tell)
        whole = self._worker.is_whole(task, tell)
        tell(1)
        return task.file, whole


def main(options: PackOptions) -> int:
    """Packs, says how it went, and returns the exit status."""
    # Ends as Ctrl-C does: nothing half done, processes ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        content = pack(options)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here.")
        return _INTERRUPTED
    except CorruptRecordError as error:
        _say(
            f"error: {error} Repair it, or leave such records out with"
            " --on_corrupt=skip; the same command goes on from here."
        )
        return 1
    except OSError as error:
        what = "it or the source cannot be used"
        if error.errno in _FULL:
            what = "there is no more space"
        _say(
            f"error: --output_dir={options.output_dir}: {what} ({error});"
            " complete shards stay, and when that is mended the same command"
            " goes on from here."
        )
        return 1
    except (ValueError, RuntimeError) as error:
        _say(f"error: {error}")
        return 1
    sys.stdout.write(_summary(options, content))
    return 0


def pack(options: PackOptions) -> dict[str, Any]:
    """Packs what is not packed yet; the manifest.

    Raises:
        ValueError: something of `options` cannot be, one sentence.
        CorruptRecordError: a record cannot be packed.
        OSError: something cannot be read or written; also disk full.
        RuntimeError: a process died.
    """
    output_dir = options.output_dir
    if output_dir is None:
        raise ValueError("--output_dir is not given; name a directory.")
    _require_own(output_dir)
    workdir = os.path.join(output_dir, _WORKDIR)
    worker = ShardWorker(options, workdir)
    # Opened here first: an index is built once, not by every process, and the
    # number of the first class is detected once.
    sources = {split: worker.source(split) for split in options.splits()}
    first_label = label_offset.settle(
        tuple(sources.values()), options.num_classes
    )
    options = dataclasses.replace(options, label_offset=first_label)
    worker = ShardWorker(options, workdir)
    lengths = {split: len(source) for split, source in sources.items()}
    shards = [
        Shard(split=split, number=number, total=total)
        for split, length in lengths.items()
        for total in [options.shards(split, length)]
        for number in range(total)
    ]
    facts = {
        "source": {
            "data_dir": options.data_dir and os.path.realpath(options.data_dir),
            "images": lengths,
        },
        "settings": {
            **options.settings(),
            "source_label_offset": first_label,
            "shards": {s.split: s.total for s in shards},
        },
    }
    journal = Journal(workdir, facts)
    try:
        content = _pack(options, worker, lengths, shards, journal, facts)
        content["source"]["description"] = {
            split: source.description for split, source in sources.items()
        }
        manifest.write(output_dir, content)
        return content
    finally:
        journal.close()
        for shard in shards:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary_path(output_dir, shard.name))


def _pack(options, worker, lengths, shards, journal, facts) -> dict[str, Any]:
    work = _Work(worker)
    processes = options.processes or len(os.sched_getaffinity(0))
    names = {shard.name for shard in shards}
    known = [r for name, r in journal.reports.items() if name in names]
    whole = set()

    def note_check(result: tuple[str, bool]) -> None:
        name, is_whole = result
        if is_whole:
            whole.add(name)
        else:
            _say(f"{name} is damaged or missing, and is packed again.")

    if known:
        with _progress(len(known), "check", "shards") as on_progress:
            farm.run(
                work,
                known,
                processes,
                on_progress=on_progress,
                on_result=note_check,
            )
        _say(f"{len(whole)} of {len(shards)} shards are there already.")
    missing = [shard for shard in shards if shard.name not in whole]
    images = {
        shard.name: len(shard.images(lengths[shard.split], options.seed))
        for shard in missing
    }
    if missing:
        _require_space(options, worker, lengths, missing, images)
        with _progress(sum(images.values()), "pack", "images") as on_progress:
            farm.run(
                work,
                missing,
                processes,
                on_progress=on_progress,
                on_result=journal.add,
            )
    reports = {
        split: [
            journal.reports[shard.name]
            for shard in shards
            if shard.split == split
        ]
        for split in lengths
    }
    return manifest.make(facts, reports)


def _require_own(output_dir: str) -> None:
    """Nothing of others in the directory that a training would read too."""
    if os.path.isdir(os.path.join(output_dir, _WORKDIR)):
        return
    for names in imagenet.SPLIT_NAMES.values():
        for name in names:
            pattern = os.path.join(glob.escape(output_dir), f"{name}-*-of-*")
            if others := sorted(glob.glob(pattern)):
                raise ValueError(
                    f"--output_dir={output_dir} has {len(others)} files like"
                    f" {os.path.basename(others[0])} that were not packed"
                    " there; name an empty directory."
                )


def _require_space(options, worker, lengths, missing, images) -> None:
    """Refuses to begin what the disk has no room for, by a sample."""
    needed = 0.0
    for split, length in lengths.items():
        left = sum(images[s.name] for s in missing if s.split == split)
        if not left:
            continue
        sizes = []
        for index in np.linspace(0, length - 1, min(_SAMPLES, length)):
            with contextlib.suppress(CorruptRecordError):
                packed, _ = worker.pack_one(split, int(index))
                sizes.append(len(packed.record) + 16)
        needed += left * float(np.mean(sizes)) if sizes else 0.0
    free = shutil.disk_usage(options.output_dir).free
    total = sum(images.values())
    text = f"about {_size(needed)} for {total:,} images, {_size(free)} free"
    if needed > free:
        raise ValueError(
            f"--output_dir={options.output_dir} has too little space: {text};"
            " make room, name another directory, or pack smaller images."
        )
    _say(f"{text}.")


@contextlib.contextmanager
def _progress(
    total: int, title: str, unit: str
) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, or else a line every half minute."""
    if sys.stderr.isatty():
        with tqdm.tqdm(total=total, desc=title, unit=f" {unit}") as bar:
            yield bar.update
        return
    start = last = time.monotonic()
    done = 0

    def update(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _LINE_SECONDS and done:
            last = now
            rate = done / (now - start)
            _say(
                f"{title}: {done:,} of {total:,} {unit}, {rate:,.0f}/s,"
                f" {(total - done) / rate / 60:,.0f} min left"
            )

    yield update


def _summary(options: PackOptions, content: dict[str, Any]) -> str:
    lines = []
    for split, facts in content["splits"].items():
        had, has = facts["source_bytes"], facts["bytes"]
        lines.append(
            f"{split}: {facts['records']:,} images in"
            f" {len(facts['shards']):,} files, {_size(had)} before,"
            f" {_size(has)} after ({has / max(had, 1):.0%}),"
            f" {facts['copied']:,} copied, {len(facts['skipped']):,} skipped"
        )
    lines.append(f"train with: --data_dir={options.output_dir}")
    return "\n".join(lines) + "\n"


def _size(size: float) -> str:
    """In decimal units, as disks are sold."""
    power = min(max(int(math.log10(max(size, 1))) // 3, 0), 4)
    unit = ("bytes", "KB", "MB", "GB", "TB")[power]
    return f"{size / 1000**power:,.3g} {unit}"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
