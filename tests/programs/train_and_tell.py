"""`hvd_imagenet.train`, after which every rank tells where it ran.

Takes the flags of hvd_imagenet.train. Prints one JSON object per rank behind
PLACE, in one write, as mpirun splits lines that come in several.
"""

import json
import os
import socket
import sys

from hvd_imagenet import train


def main():
    try:
        train.run()
    except SystemExit as end:
        if end.code:
            raise
    import horovod.tensorflow as hvd

    place = {
        "rank": hvd.rank(),
        "size": hvd.size(),
        "local_rank": hvd.local_rank(),
        "local_size": hvd.local_size(),
        "host": socket.gethostname(),
    }
    os.write(sys.stdout.fileno(), f"PLACE {json.dumps(place)}\n".encode())


if __name__ == "__main__":
    main()
