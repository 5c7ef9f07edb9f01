"""`hvd_imagenet.train`, in which something happens to a rank before a step.

Takes the flags of hvd_imagenet.train. The environment variable FAULT has the
fault, the rank and the step, counted from 0: "kill:1:5".
"""

import os
import signal
import time

import keras
import numpy as np

from hvd_imagenet import job, train


def _raise():
    raise RuntimeError("something that nobody has thought of")


def _hang():
    time.sleep(3600)


_FAULTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "raise": _raise,
    "hang": _hang,
}


class Fault(keras.callbacks.Callback):
    def __init__(self, fault, step):
        super().__init__()
        self._fault = fault
        self._step = step

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self._step:
            self._happen()

    def _happen(self):
        if self._fault == "nan":
            layer = self.model.get_layer("stage2_block1_conv1")
            kernel = layer.kernel.numpy()
            kernel[0, 0, 0, 0] = np.nan
            layer.kernel.assign(kernel)
        else:
            _FAULTS[self._fault]()


def main():
    fault, rank, step = os.environ["FAULT"].split(":")
    make_callbacks = job._callbacks

    def with_fault(this_job, *args):
        calls = make_callbacks(this_job, *args)
        if this_job.processes.world.rank == int(rank):
            calls.append(Fault(fault, int(step)))
        return calls

    job._callbacks = with_fault
    train.run()


if __name__ == "__main__":
    main()
