"""Several crops of an image, whose predictions are averaged."""

import tensorflow as tf


def five(squares: tf.Tensor, size: int) -> tf.Tensor:
    """The four corners and the center of square images.

    Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional
    Neural Networks", section 4.1; with their mirror images the 10-crop testing
    of He et al. 2016 (arXiv 1512.03385), section 4.1.

    Args:
        squares: [batch, side, side, 3] uint8.
        size: side of the crops in pixels, at most `side`.

    Returns:
        [5, batch, size, size, 3] uint8: top left, top right, bottom left,
        bottom right and center.
    """
    far = squares.shape[1] - size
    places = [(0, 0), (0, far), (far, 0), (far, far), (far // 2, far // 2)]
    return tf.stack(
        [
            squares[:, top : top + size, left : left + size]
            for top, left in places
        ]
    )
