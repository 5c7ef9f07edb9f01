"""How the records of a data set hold image and label."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleFeatures:
    """Features of a tf.train.Example that holds an image.

    Attributes:
        image: name of the encoded image, one byte string.
        label: name of the class number, one integer.
        label_offset: number that is stored for the first class; None while it
            is not known (`label_offset.py`).
    """

    image: str
    label: str
    label_offset: int | None


def imagenet(label_offset: int | None) -> ExampleFeatures:
    """As the well-known builder scripts of ImageNet write them."""
    return ExampleFeatures(
        image="image/encoded",
        label="image/class/label",
        label_offset=label_offset,
    )
