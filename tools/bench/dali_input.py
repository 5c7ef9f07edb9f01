"""NVIDIA DALI on the CPU, doing what our input pipeline does.

    python dali_input.py DATA_DIR THREADS STEPS

Random resized crop of 224 pixels (bilinear, not antialiased, fast inverse DCT),
flip, batches of 64 uint8 images, from TFRecords. Prints one JSON object.
"""

import glob
import json
import os
import struct
import sys
import tempfile
import time

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import tfrecord as tfrec

_BATCH = 64
_WARMUP_STEPS = 10


@pipeline_def(batch_size=_BATCH, device_id=None, prefetch_queue_depth=3)
def _pipeline(paths, indices):
    record = fn.readers.tfrecord(
        path=paths,
        index_path=indices,
        random_shuffle=True,
        features={
            "image/encoded": tfrec.FixedLenFeature((), tfrec.string, ""),
            "image/class/label": tfrec.FixedLenFeature([1], tfrec.int64, -1),
        },
    )
    images = fn.decoders.image_random_crop(
        record["image/encoded"],
        device="cpu",
        output_type=types.RGB,
        random_area=[0.08, 1.0],
        random_aspect_ratio=[3 / 4, 4 / 3],
        num_attempts=10,
        use_fast_idct=True,
    )
    images = fn.resize(
        images,
        size=[224, 224],
        interp_type=types.INTERP_LINEAR,
        antialias=False,
    )
    images = fn.flip(images, horizontal=fn.random.coin_flip())
    return images, record["image/class/label"]


def _write_index(path, index_path):
    """Offsets and lengths of the records, as DALI's reader wants them."""
    with open(path, "rb") as file, open(index_path, "w") as index:
        position, end = 0, os.path.getsize(path)
        while position < end:
            file.seek(position)
            (length,) = struct.unpack("<Q", file.read(8))
            index.write(f"{position} {length + 16}\n")
            position += length + 16


def main():
    data_dir, threads, steps = sys.argv[1], *map(int, sys.argv[2:])
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(glob.glob(os.path.join(data_dir, "train-*")))
        indices = [os.path.join(folder, os.path.basename(p)) for p in paths]
        for path, index_path in zip(paths, indices, strict=True):
            _write_index(path, index_path)
        pipeline = _pipeline(paths, indices, num_threads=threads)
        pipeline.build()
        for _ in range(_WARMUP_STEPS):
            pipeline.run()
        seconds, cpu_seconds = time.perf_counter(), time.process_time()
        for _ in range(steps):
            pipeline.run()
        seconds = time.perf_counter() - seconds
        cpu_seconds = time.process_time() - cpu_seconds
    images = steps * _BATCH
    print(
        json.dumps(
            {
                "images_per_second": images / seconds,
                "images_per_cpu_second": images / cpu_seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
