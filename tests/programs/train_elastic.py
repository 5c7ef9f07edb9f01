"""`hvd_imagenet.train --elastic` with notes, to which things happen.

Takes the flags of hvd_imagenet.train, and from the environment:

    NOTES   a folder, for a line of JSON per step and process: the round, the
            ranks, the step that the round begins with, the step and the images
            that the process took for it
    EVENTS  a JSON object of what happens before a step, once in the run, by
            its number from 0: ["kill", RANK] kills a rank as kill -9 does,
            ["terminate", RANK] asks it to stop,
            ["hosts", TEXT] makes TEXT the content of the file HOSTS, and
            waits for rank 0 to be told; ["hang", RANK] makes a rank hang
"""

import json
import os
import pathlib
import signal
import time

import keras

from hvd_imagenet import elastic, job, train
from hvd_imagenet.trainer import Trainer

_NOTES = pathlib.Path(os.environ["NOTES"])
_EVENTS = {int(k): v for k, v in json.loads(os.environ["EVENTS"]).items()}
_NOW = {}


class _Noted:
    """Batches, whose images are kept."""

    def __init__(self, batches):
        self._batches = batches
        self.images = []

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self._batches)
        self.images += batch.indices.numpy().tolist()
        return batch


def _note_steps():
    train_step = Trainer.train_step

    def noted_step(trainer, batches, *args):
        noted = _Noted(batches)
        loss = train_step(trainer, noted, *args)
        step = int(trainer.optimizer.iterations)
        note = _NOW["round"] | {"step": step, "images": noted.images}
        with open(_NOTES / f"{os.getpid()}.jsonl", "a") as file:
            file.write(json.dumps({**note, "time": time.time()}) + "\n")
        return loss

    Trainer.train_step = noted_step


def _note_rounds():
    begin = elastic.ElasticJob.begin

    def noted_begin(elastic_job, processes, supervisor):
        start = begin(elastic_job, processes, supervisor)
        _NOW["membership"] = elastic_job._membership
        _NOW["round"] = {
            "round": processes.broadcast_object(time.time()),
            "ranks": processes.world.size,
            "first_step": start.first_step,
        }
        return start

    elastic.ElasticJob.begin = noted_begin


class _Happen(keras.callbacks.Callback):
    def __init__(self, rank):
        super().__init__()
        self._rank = rank

    def on_train_batch_begin(self, batch, logs=None):
        kind, what = _EVENTS.get(batch, (None, None))
        if kind is None or self._rank != (0 if kind == "hosts" else what):
            return
        try:
            (_NOTES / f"event_{batch}").touch(exist_ok=False)
        except FileExistsError:
            return
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        elif kind == "hang":
            time.sleep(3600)
        else:
            hosts = pathlib.Path(os.environ["HOSTS"])
            hosts.with_suffix(".new").write_text(what)
            hosts.with_suffix(".new").rename(hosts)
            deadline = time.monotonic() + 30
            while not _NOW["membership"].is_outdated:
                if time.monotonic() > deadline:
                    raise TimeoutError("horovodrun has not told of the hosts")
                time.sleep(0.1)


def main():
    make_callbacks = job._callbacks

    def with_events(this_job, *args):
        calls = make_callbacks(this_job, *args)
        return [*calls, _Happen(this_job.processes.world.rank)]

    job._callbacks = with_events
    _note_rounds()
    _note_steps()
    train.run()


if __name__ == "__main__":
    main()
