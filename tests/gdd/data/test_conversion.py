"""Pixels: EDM's to the byte, whatever the colour mode, or a reason."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from gdd.data import conversion
from gdd.data.conversion import Unusable, decode, fit

Encode = Callable[..., bytes]
RGB = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)


def test_edm_pixels(golden: Path, encode: Encode) -> None:
    stored = np.load(golden / "datasets" / "transforms.npz")
    compared = 0
    for key in stored.files:
        if key.startswith("source"):
            continue
        transform, number = key.rsplit("_64_", 1)
        source = stored[f"source{number}"]
        result = decode(encode(source), transform.replace("_", "-"), 64)  # type: ignore[arg-type]
        assert result.tobytes() == stored[key].tobytes(), key
        compared += 1
    assert compared == 6


@pytest.mark.parametrize(("height", "width"), [(21, 34), (34, 21), (20, 25), (25, 20), (9, 9), (1, 7)])
def test_the_crop_is_centred(height: int, width: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    assert np.array_equal(fit(Image.fromarray(pixels), "center-crop", side), square)
    assert np.array_equal(
        fit(Image.fromarray(pixels), "center-crop", 8), fit(Image.fromarray(square), "resize", 8)
    )


def test_nothing_is_scaled_that_has_its_size(encode: Encode) -> None:
    square = RGB[:16, :16]
    for transform in (None, "resize", "center-crop"):
        assert np.array_equal(decode(encode(square), transform, 16), square)  # type: ignore[arg-type]
    with pytest.raises(Unusable, match="is 34x21, not 16x16"):
        decode(encode(RGB), None, 16)


def of_mode(mode: str) -> Image.Image:
    image = Image.fromarray(RGB[:16, :16])
    if mode == "P":
        return image.quantize(17)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(RGB[:16, 16:32, 0]))
        return image
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("LA", "PNG"),
        ("RGBA", "PNG"),
        ("RGB", "PNG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
    ],
)
@pytest.mark.parametrize("transform", ["resize", "center-crop"])
def test_every_colour_mode_becomes_what_pillow_makes_of_it(
    mode: str, format: str, transform: Any, encode: Encode, tmp_path: Path
) -> None:
    content = encode(of_mode(mode), format)
    (tmp_path / "file").write_bytes(content)
    with Image.open(tmp_path / "file") as image:
        assert image.mode == mode
        rgb = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(content, transform, 16), rgb)
    expected = np.asarray(Image.fromarray(rgb).resize((5, 5), Image.Resampling.LANCZOS))
    assert np.array_equal(decode(content, transform, 5), expected)


@pytest.mark.parametrize(("mode", "format"), [("I;16", "PNG"), ("I", "TIFF"), ("F", "TIFF"), ("LAB", "TIFF")])
def test_what_has_no_faithful_rgb_is_refused(mode: str, format: str, encode: Encode) -> None:
    with pytest.raises(Unusable, match=f"has the colour mode {mode}.*, which has no faithful 8-bit RGB"):
        decode(encode(Image.new(mode, (16, 16)), format), "resize", 8)


def test_no_other_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript, whatever it is called, to Ghostscript."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(Unusable, match="is not an image that Pillow can read"):
        decode(postscript, "resize", 8)
    assert not (tmp_path / "canary").exists()
    with pytest.raises(OSError), Image.open(io.BytesIO(postscript)) as image:
        image.load()
    assert (tmp_path / "canary").exists()  # it would have run


def test_an_image_of_too_many_pixels(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(RGB[:16, :16], "PNG")
    monkeypatch.setattr(conversion, "MOST_PIXELS", 255)
    with pytest.raises(Unusable, match="is 16x16, more than 255 pixels"):
        decode(content, None, 16)
    monkeypatch.setattr(conversion, "MOST_PIXELS", 256)
    assert decode(content, None, 16).shape == (16, 16, 3)


def test_orientation_is_not_applied(encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = encode(RGB[:16, :16], "JPEG", exif=exif)
    assert np.array_equal(decode(turned, None, 16), decode(encode(RGB[:16, :16], "JPEG"), None, 16))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("keep", [0, 1, 30, 0.5, 0.9])
def test_a_truncated_file_has_a_reason(format: str, keep: float, encode: Encode) -> None:
    content = encode(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8), format)
    short = content[: int(keep if keep >= 1 else keep * len(content))]
    with pytest.raises(Unusable) as caught:
        decode(short, "resize", 8)
    assert str(caught.value).startswith(("is damaged (", "is not an image that Pillow can read", "is empty"))
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)
