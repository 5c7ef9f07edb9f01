"""Rank 0 of two, told to end while it waits to hear why an exchange failed.

The other one is a connection that breaks; there is no Horovod.
"""

import os
import signal
import threading
import time

from hvd_imagenet.supervision import supervisor
from hvd_imagenet.supervision.member import connect
from hvd_imagenet.world import World


class _Processes:
    world = World(rank=0, size=2, local_rank=0, local_size=2)

    def broadcast_object(self, offered):
        _, _, offer, token = offered
        hello = {"token": token, "rank": 1, "host": "host7", "pid": 123}
        self.other = connect(offer, hello)

    def gather_object(self, own):
        return [own, None]


def main():
    processes = _Processes()

    def terminate():
        # While the main thread waits, and before the other one is missed.
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        processes.other.close()

    supervisor.is_exchange_failure = lambda error: True
    with supervisor.supervised(processes, 30.0, describe=str):
        threading.Thread(target=terminate, daemon=True).start()
        raise RuntimeError("an exchange has failed")


if __name__ == "__main__":
    main()
