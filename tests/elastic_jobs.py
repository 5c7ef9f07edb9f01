"""Jobs of programs/train_elastic.py: what they need, and what must hold."""

import collections
import dataclasses
import json
import pathlib

from hvd_imagenet import order

PROGRAM = pathlib.Path(__file__).parent / "programs" / "train_elastic.py"
_TRAIN_IMAGES = 930  # Of the data set `patterns`.


@dataclasses.dataclass(frozen=True)
class Ended:
    """What is left of a job."""

    status: int
    output: str
    notes: list[dict]

    def steps(self):
        """Notes by step, without those of steps that were lost."""
        steps = {}
        by_round = collections.defaultdict(list)
        for note in self.notes:
            by_round[note["round"]].append(note)
        for _, notes in sorted(by_round.items()):
            first = notes[0]["first_step"]
            steps = {n: done for n, done in steps.items() if n <= first}
            for note in notes:
                steps.setdefault(note["step"], []).append(note)
        return steps

    def ranks(self):
        """Processes of the rounds, in their order."""
        rounds = {note["round"]: note["ranks"] for note in self.notes}
        return [ranks for _, ranks in sorted(rounds.items())]


def prepare(folder, hosts):
    """Makes the files that a job needs.

    Args:
        folder: where; has the run and the notes later.
        hosts: names, of one process each.

    Returns:
        The discovery script, and the variables of the program but EVENTS.
    """
    notes, listed = folder / "notes", folder / "hosts"
    notes.mkdir()
    listed.write_text("".join(f"{host}:1\n" for host in hosts))
    script = folder / "discover"
    script.write_text(f"#!/bin/sh\ncat {listed}\n")
    script.chmod(0o755)
    return script, {"NOTES": str(notes), "HOSTS": str(listed)}


def read_notes(folder):
    """What the processes have noted."""
    return [
        json.loads(line)
        for file in (folder / "notes").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]


def require_every_image_once(ended, first_positions):
    """Every step took the images of its stretch of the stream, no others.

    Args:
        ended: the job.
        first_positions: of the steps, and where the last one ends.
    """
    steps = ended.steps()
    assert sorted(steps) == list(range(1, len(first_positions)))
    for step, notes in steps.items():
        assert len(notes) == notes[0]["ranks"]
        taken = [image for note in notes for image in note["images"]]
        positions = range(first_positions[step - 1], first_positions[step])
        images, _ = order.images_at(positions, seed=0, length=_TRAIN_IMAGES)
        assert sorted(taken) == sorted(images.tolist())
