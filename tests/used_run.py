"""A small run on image files, for the programs that use a run's result."""

import pathlib

import numpy as np
from PIL import Image

import image_data
import jobs

CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")
# Some are PNG files, some grey, and none is square.
_SIZES = ((40, 56), (61, 44), (48, 70))
_FLAGS = (
    f"--num_classes={len(CLASSES)}",
    "--epochs=4",
    "--batch_size_per_process=25",
    "--evaluation_batch_size_per_process=16",
    "--crop_area_min=0.6",
    "--evaluation_flip",
    "--ema_decay=0.5",
)


def picture(label: int, number: int) -> np.ndarray:
    """A noisy picture of a class, [height, width, 3] uint8."""
    height, width = _SIZES[number % len(_SIZES)]
    clear = image_data.pixels(height, width, seed=label)
    noise = np.random.default_rng([label, number]).normal(0, 40, clear.shape)
    return np.clip(clear + noise, 0, 255).astype(np.uint8)


def write_data(folder: pathlib.Path) -> pathlib.Path:
    """Writes 100 training and 51 validation images."""
    for split, first, count in (("train", 0, 20), ("val", 20, 11)):
        images = {name: {} for name in CLASSES}
        for label, name in enumerate(CLASSES):
            # One class has fewer.
            for number in range(first, first + count - (label > 0)):
                image = Image.fromarray(picture(label, number))
                if number % 7 == 0:
                    image = image.convert("L")
                kind = "PNG" if number % 5 == 0 else "JPEG"
                images[name][f"{number}.{kind.lower()}"] = image_data.encode(
                    image, kind
                )
        image_data.write_folders(folder / split, images)
    (folder / "LOC_synset_mapping.txt").write_text(
        "n01440764 tench, Tinca tinca\nn01443537 goldfish\n"
    )
    return folder


def train(folder: pathlib.Path) -> pathlib.Path:
    """Trains on such data; the directory of the run."""
    data, run = write_data(folder / "data"), folder / "run"
    jobs.train(0, *_FLAGS, f"--data_dir={data}", f"--workdir={run}")
    return run
