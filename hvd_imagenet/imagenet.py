"""Facts about ImageNet-1k (ILSVRC 2012, Russakovsky et al. 2015)."""

TRAIN_IMAGES = 1_281_167
VALIDATION_IMAGES = 50_000
CLASSES = 1_000

# Per-channel mean and standard deviation of the training images, RGB, for
# pixels scaled to [0, 1]: the constants of fb.resnet.torch's imagenet.lua.
MEAN_RGB = (0.485, 0.456, 0.406)
STDDEV_RGB = (0.229, 0.224, 0.225)

# Evaluation resizes the shorter side to 256 and crops the central 224.
RESIZE_PER_CROP = 256 / 224

# File names by split: TFRecord shards as the well-known builder scripts name
# them, and the folders of the extracted tar files.
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "val"),
}
