"""Trains, with one bit of a weight flipped on one rank after some step.

horovodrun ... python flip_bit.py RANK STEP FLAGS...
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from hvd_imagenet import train
from hvd_imagenet.trainer import Trainer
from hvd_imagenet.world import launched_rank

_VARIABLE = "stage1_block1_conv1/kernel"


def flip_bit(variable, element, bit):
    """Flips one bit of an element, the lowest being number 0."""
    values = variable.numpy()
    bits = values.reshape(-1).view(f"u{values.itemsize}")
    bits[element] ^= bits.dtype.type(1 << bit)
    variable.assign(values)


def main():
    rank, step, *flags = sys.argv[1:]
    sys.argv[1:] = flags
    train_step, done = Trainer.train_step, []

    def train_step_and_flip(self, *args):
        loss = train_step(self, *args)
        done.append(loss)
        if len(done) == int(step) and launched_rank(os.environ) == int(rank):
            (hit,) = (v for v in self.state if v.path == _VARIABLE)
            flip_bit(hit, element=17, bit=3)
        return loss

    Trainer.train_step = train_step_and_flip
    train.run()


if __name__ == "__main__":
    main()
