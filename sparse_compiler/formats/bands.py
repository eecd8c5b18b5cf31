"""Which 3 x 3 convolutions run over bands of image rows, and how many vectors of sums that takes.

As `Bands` and `in_bands` of conv_bands.h have it: an image is cut into bands of rows and strips of
columns, and a vector is `fold` rows of a strip, the columns beside it included.
"""

from __future__ import annotations

from dataclasses import dataclass

_HIGH = 8  # vectors of a panel
_STRIPS = 16
_SUMS = 1 << 19  # bytes of partial sums


@dataclass(frozen=True)
class Bands:
    """sums: vectors of one output channel; panels: strips of bands, each walked by itself."""

    sums: int
    panels: int


def bands_of(rows: int, image: tuple[int, ...], vector: int, groups: int = 1) -> Bands | None:
    """The cut of one image by a convolution of so many output channels; None: windows serve it.

    image: as `Conv.plain_image` gives it. vector: floats per vector.
    """
    if not image or groups > 1 or vector != 16:
        return None  # with 8 floats a vector, bands waste too many of them
    height, width = image
    fold, strip = 1, vector - 2
    if width < vector:
        while vector // (2 * fold) > width and (fold + 1) * width <= 2 * vector:
            fold *= 2
        strip = vector // fold - 1
    strips, vectors = -(-width // strip), -(-height // fold)
    bands = -(-vectors // _HIGH)
    bands += bands % 2 if bands > 1 else 0
    high = -(-vectors // bands)
    bands = -(-vectors // high)
    lanes = strips * bands * high * vector
    fits = strips <= _STRIPS and rows * strips * high * vector * 4 <= _SUMS
    large = height * width >= 3 * vector and 4 * height * width >= 3 * lanes
    return Bands(strips * vectors, strips * bands) if fits and large else None
