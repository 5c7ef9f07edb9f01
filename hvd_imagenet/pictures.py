"""Pictures of images with captions, and of tables of shares."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CAPTION = 16
_GAP = 4
_CELL = 40
_PAPER = (255, 255, 255)
_INK = (32, 32, 32)
# Of a share of 1; 0 is paper.
_FULL = np.array([178, 34, 34])


def gallery(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    columns: int = 4,
    side: int = 160,
) -> np.ndarray:
    """Images side by side, each with a line of text under it.

    Args:
        images: each [height, width, 3] uint8, RGB, at least one.
        captions: one for each.
        columns: images side by side.
        side: what images are enlarged or reduced to, in pixels.

    Returns:
        [height, width, 3] uint8, RGB.
    """
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    step_x, step_y = side + _GAP, side + _CAPTION + _GAP
    page = Image.new(
        "RGB", (columns * step_x - _GAP, rows * step_y - _GAP), _PAPER
    )
    draw = ImageDraw.Draw(page)
    for number, (pixels, caption) in enumerate(
        zip(images, captions, strict=True)
    ):
        row, column = divmod(number, columns)
        # Pixels of what is smaller stay visible as they are.
        method = Image.Resampling.NEAREST
        if pixels.shape[0] > side:
            method = Image.Resampling.BOX
        image = Image.fromarray(pixels).resize((side, side), method)
        x, y = column * step_x, row * step_y
        page.paste(image, (x, y))
        draw.text((x + 2, y + side + 2), caption, _INK, _font())
    return np.asarray(page)


def table(
    shares: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    corner: str = "",
) -> np.ndarray:
    """A table of shares, each a cell that is the darker the larger it is.

    Args:
        shares: [rows, columns], 0 to 1.
        rows: their names.
        columns: theirs.
        corner: what both are.

    Returns:
        [height, width, 3] uint8, RGB.
    """
    font = _font()
    margin = 8 + max(int(font.getlength(text)) for text in [corner, *rows])
    page = Image.new(
        "RGB",
        (margin + _CELL * len(columns), _CAPTION + _CELL * len(rows)),
        _PAPER,
    )
    draw = ImageDraw.Draw(page)
    draw.text((2, 2), corner, _INK, font)
    for column, name in enumerate(columns):
        x = margin + column * _CELL
        draw.text((x + _CELL / 2, 2), name, _INK, font, anchor="ma")
    for row, name in enumerate(rows):
        y = _CAPTION + row * _CELL
        draw.text((2, y + _CELL / 2), name, _INK, font, anchor="lm")
        for column in range(len(columns)):
            x = margin + column * _CELL
            share = float(shares[row, column])
            colour = (1 - share) * np.array(_PAPER) + share * _FULL
            draw.rectangle(
                (x, y, x + _CELL - 2, y + _CELL - 2),
                tuple(int(part) for part in colour),
            )
            if share >= 0.005:
                ink = _PAPER if share > 0.5 else _INK
                place = (x + _CELL / 2 - 1, y + _CELL / 2 - 1)
                draw.text(place, f"{100 * share:.0f}", ink, font, anchor="mm")
    return np.asarray(page)


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=12)
