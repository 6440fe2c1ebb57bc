"""From an image file's content to RGB pixels of one size, byte for byte as EDM's preparation makes them."""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

Transform = Literal["resize", "center-crop"]

# Pillow turns these into 8-bit RGB by a rule one can rely on: grey is repeated, a palette looked up, CMYK
# inverted without a colour profile, alpha dropped. Of 16-bit and float grey it would clip what is above 255.
CONVERTIBLE = {"1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}


class Unusable(Exception):
    """An image that cannot become pixels; the message is a reason to print behind its name."""


def decode(content: bytes, transform: Transform | None, resolution: int) -> np.ndarray:
    """Turn an image file's bytes into uint8 `[resolution, resolution, 3]`.

    Orientation in EXIF is not applied, and of 16 bits per RGB channel the upper 8 are taken, both as Pillow
    opens a file.

    Raises:
        Unusable: the file is no image, is damaged, or cannot become RGB of that size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ImageNet is full of odd EXIF blocks, which nothing here reads
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return fit(image, transform, resolution)
        except UnidentifiedImageError:
            raise Unusable("is not an image that Pillow can read" if content else "is empty") from None
        except Unusable:
            raise
        except Exception as error:  # Pillow's readers raise anything from SyntaxError to struct.error
            raise Unusable(f"is damaged ({error})") from None


def fit(image: Image.Image, transform: Transform | None, resolution: int) -> np.ndarray:
    """Turn an image into uint8 `[resolution, resolution, 3]`.

    `resize` scales the whole image, whatever its aspect; `center-crop` takes the centred square of the short
    side first; None takes an image that has its size already (EDM, arXiv:2206.00364, published preparation).

    Raises:
        Unusable: the colour mode has no 8-bit RGB, or the size is wrong where nothing is scaled.
    """
    if image.mode not in CONVERTIBLE:
        raise Unusable(f"has the colour mode {image.mode}, which has no faithful 8-bit RGB; convert it first")
    width, height = image.size
    if transform is None and (width, height) != (resolution, resolution):
        raise Unusable(f"is {width}x{height}, not {resolution}x{resolution}")
    if transform == "center-crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    # RGB comes before scaling: a palette's indices must not be averaged.
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(rgb.resize((resolution, resolution), Image.Resampling.LANCZOS))
