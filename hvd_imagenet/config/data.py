"""The knobs of the images: where they are and what is done to them."""

import dataclasses

from hvd_imagenet.knobs import Checked, recipe, site


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Where the images are and what is done to them."""

    data_dir: str | None = site(
        None,
        "Directory of the images, laid out as data_format says. With"
        " shuffle=buffered also one that TensorFlow reads by other means, such"
        " as gs://BUCKET/FOLDER.",
    )
    data_format: str = site(
        "auto",
        "How data_dir is laid out; auto looks. tfrecord: train-*-of-* and"
        " validation-*-of-* (or val-*-of-*), ImageNet-format TFRecords. folder:"
        " train/CLASS/* and val/CLASS/* (or validation/), JPEG or PNG files, or"
        " val/* with validation_labels."
        " tfds: NAME/VERSION/* or NAME/CONFIG/VERSION/*, which TensorFlow"
        " Datasets has prepared as tfds_name in files of its formats tfrecord"
        " or array_record. synthetic makes images of its own and needs no"
        " data_dir.",
        choices=("auto", "tfrecord", "folder", "tfds", "synthetic"),
    )
    tfds_name: str = site(
        "imagenet2012",
        "Data set of data_format=tfds, as TensorFlow Datasets writes it: NAME,"
        " NAME:VERSION, NAME/CONFIG or NAME/CONFIG:VERSION. Without a version"
        " the newest that is prepared in data_dir. Its examples must have one"
        " image and one class label.",
    )
    tfds_train_split: str = site(
        "train",
        "Training images of data_format=tfds: a split or a part of one, such as"
        " train[:95%].",
    )
    tfds_validation_split: str | None = site(
        None,
        "As tfds_train_split, for validation. Default: the split validation, or"
        " test where there is none.",
    )
    train_images: int | None = site(
        None,
        "Number of training images to plan with when there is no data, and"
        " that of synthetic data. Default: counted in data_dir, or"
        " ImageNet's 1,281,167 without one.",
        unit="images",
        minimum=1,
    )
    validation_images: int | None = site(
        None,
        "As train_images, for the validation split. Default: counted in"
        " data_dir, or ImageNet's 50,000 without one.",
        unit="images",
        minimum=1,
    )
    validation_labels: str | None = site(
        None,
        "Text file with the labels of the images of val/ that are not in class"
        " folders: lines LABEL in the order of the sorted file names, or NAME"
        " LABEL; LABEL is a class folder of train/, or its place from 0 in the"
        " sorted list. Numbers of ImageNet's development kit are refused, as"
        " their order is another. Default: ImageNet's own labels, for files"
        " named ILSVRC2012_val_00000001.JPEG and so on.",
    )
    label_offset: int | None = site(
        None,
        "What TFRecords store for the first class in image/class/label. The"
        " well-known builder scripts count from 1, others from 0. Default: as a"
        " sample of the records proves; where it does not, the run is refused"
        " and asks for this flag.",
        minimum=0,
        maximum=1,
    )
    on_corrupt: str = site(
        "fail",
        "What to do about a record that cannot be read or decoded: stop and"
        " name it, or leave it out of loss and counts, name it and count it."
        " skip costs input speed, as every image is decoded under guard. Of a"
        " JPEG only the part that a crop needs is decoded, and damage elsewhere"
        " is not noticed.",
        choices=("fail", "skip"),
    )
    shuffle: str = recipe(
        "global",
        "Order of the training images. global: one permutation of all images"
        " per epoch, the same on any number of processes; reads records at"
        " random, so data_dir must be a path of the host. buffered: reads files"
        " of the formats tfrecord and tfds from beginning to end, remote ones"
        " too. Every image is seen exactly once per epoch, but neighbours in a"
        " file stay near each other; which images make up a step depends on the"
        " number of processes; and a run that is resumed on another number of"
        " them within an epoch may see images of that epoch twice and miss"
        " others.",
        choices=("global", "buffered"),
    )
    shuffle_buffer_size: int = recipe(
        4096,
        "How far an image may change its place with shuffle=buffered, and"
        " about how many encoded images a process keeps in memory.",
        unit="images",
        minimum=1,
        maximum=10_000_000,
        when=("shuffle", ("buffered",)),
    )
    crop_area_min: float = recipe(
        0.08,
        "Least area of the random resized crop, as a share of the image.",
        minimum=0.001,
        maximum=1.0,
    )
    crop_area_max: float = recipe(
        1.0,
        "Greatest area of the random resized crop, as a share of the image.",
        minimum=0.001,
        maximum=1.0,
    )
    crop_aspect_min: float = recipe(
        3 / 4,
        "Least width over height of the random resized crop.",
        minimum=0.1,
        maximum=10.0,
    )
    crop_aspect_max: float = recipe(
        4 / 3,
        "Greatest width over height of the random resized crop.",
        minimum=0.1,
        maximum=10.0,
    )
    horizontal_flip: bool = recipe(
        True, "Mirror every other training image, at random."
    )
    evaluation_flip: bool = recipe(
        False,
        "Evaluate the mean of the logits of an image and of its mirror image.",
    )
    evaluation_image_size: int | None = recipe(
        None,
        "Side of the square images that are evaluated. Default: that of the"
        " training images at the end of the run.",
        unit="pixels",
        minimum=8,
        maximum=2048,
    )
    evaluation_resize: int | None = recipe(
        None,
        "Length of the shorter side before the central crop when evaluating."
        " Default: the side of the crop x 256/224, rounded.",
        unit="pixels",
        minimum=8,
        maximum=4096,
    )
    interpolation: str = recipe(
        "bilinear",
        "How images are resized, in training and evaluation.",
        choices=("bilinear", "bicubic"),
    )
    dct_method: str = recipe(
        "fast",
        "Inverse transform of the JPEG decoder, integer fast or integer"
        " accurate. Fast made two photographs darker by 0.7 to 0.8 of 255 grey"
        " levels on average; the values that reach the network differed by up"
        " to 5 at JPEG quality 90, by up to 14 at 96.",
        choices=("fast", "accurate"),
    )
    randaugment_layers: int | None = recipe(
        None,
        "Operations that RandAugment draws for every training image, each done"
        " with probability 0.5 (Cubuk 2019; timm's increasing operations)."
        " Default: no RandAugment.",
        unit="operations",
        minimum=1,
        maximum=10,
    )
    randaugment_magnitude: float | None = recipe(
        None,
        "Mean magnitude of RandAugment's operations, with randaugment_layers"
        " only.",
        minimum=0.0,
        maximum=10.0,
    )
    randaugment_magnitude_std: float | None = recipe(
        None,
        "Standard deviation of that magnitude, which is normal and clipped to"
        " 0 to 10; with randaugment_layers only.",
        minimum=0.0,
    )
    mixup_alpha: float | None = recipe(
        None,
        "Mixup (Zhang et al. 2018): every training image becomes lambda x"
        " itself + (1 - lambda) x another one of its micro-batch, and so does"
        " its target; lambda is of Beta(alpha, alpha), one for the micro-batch."
        " Default: not done.",
        minimum=0.01,
        maximum=100.0,
    )
    cutmix_alpha: float | None = recipe(
        None,
        "Cutmix (Yun et al. 2019): as mixup, but 1 - lambda is the area of a"
        " random box that is taken from the other image. With both, each"
        " is done to every other micro-batch, at random. Default: not done.",
        minimum=0.01,
        maximum=100.0,
    )
    input_kernel: str = site(
        "auto",
        "What makes training images. auto: the operation that tools/setup has"
        " compiled, where it is there and --interpolation=bilinear; tensorflow:"
        " TensorFlow's own operations, with the same images and in more time.",
        choices=("auto", "tensorflow"),
    )
    input_threads: int = site(
        0,
        "Threads that read and decode images, per process. 0: the cores of"
        " the host divided by its processes.",
        unit="threads",
        minimum=0,
        maximum=1024,
    )

    @property
    def local_data_dir(self) -> str | None:
        """`data_dir`, if it is a path that this host could have."""
        is_remote = self.data_dir is not None and "://" in self.data_dir
        return None if is_remote else self.data_dir

    def __post_init__(self):
        super().__post_init__()
        for name in ("crop_area", "crop_aspect"):
            least = getattr(self, f"{name}_min")
            greatest = getattr(self, f"{name}_max")
            if least > greatest:
                raise ValueError(
                    f"--{name}_min={least} is greater than"
                    f" --{name}_max={greatest}; lower one or raise the other."
                )
        randaugment = {
            f"--randaugment_{part}": getattr(self, f"randaugment_{part}")
            for part in ("layers", "magnitude", "magnitude_std")
        }
        given = [f"{k}={v}" for k, v in randaugment.items() if v is not None]
        missing = [k for k, v in randaugment.items() if v is None]
        if given and missing:
            raise ValueError(
                f"{', '.join(given)} without {', '.join(missing)}: RandAugment"
                " takes all three or none; add what is missing."
            )
