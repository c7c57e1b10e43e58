"""Photographs that are not textbook photographs, made ready for a model."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xai_patchshap import PatchShapError
from xai_patchshap.models.named_model import NamedModel
from xai_patchshap.models.photographs import open_image


def named(size=(32, 32), crop=0.875, channels=3):
    return NamedModel(lambda x: x, "mine", size, crop, channels=channels)


@pytest.fixture
def watched(monkeypatch):
    """The most pixels that any call of PIL's resize makes."""
    most, resize = [0], Image.Image.resize

    def watching(self, size, *rest, **kwargs):
        most[0] = max(most[0], size[0] * size[1])
        return resize(self, size, *rest, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watching)
    return most


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (2, 4000), (300, 30_000)])
def test_memory_is_bounded_by_the_size_of_the_model(shape, watched):
    ramp = np.linspace(0, 255, max(shape)).astype(np.uint8)
    pixels = np.broadcast_to(ramp if shape[1] > shape[0] else ramp[:, None], shape)
    x = named().prepare(Image.fromarray(np.ascontiguousarray(pixels)), zoom=14)
    assert watched[0] <= 16 * 448**2
    assert x.shape == (3, 448, 448)
    assert float(x.min()) == pytest.approx(0.5, abs=0.02)  # the middle of the strip
    assert float(x.max()) == pytest.approx(0.5, abs=0.02)


@given(st.integers(1, 40), st.integers(1, 2000), st.booleans(), st.integers(1, 40))
def test_a_strip_is_resized_as_any_photograph(short, long, lying, side):
    rng = np.random.default_rng(short * long)
    shape = (short, long, 3) if lying else (long, short, 3)
    image = Image.fromarray(rng.integers(80, 176, shape, dtype=np.uint8))
    height, width = side, side + 3
    x = named((height, width)).prepare(image)
    scale = max(height / image.height, width / image.width) / 0.875
    whole = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if whole[0] * whole[1] > 10**6:
        return
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    full = image.resize(whole, Image.Resampling.BICUBIC)
    cut = np.asarray(full.crop((left, top, left + width, top + height)))
    # PIL rounds to 8 bits between rows and columns, which come in the order that is cheaper.
    np.testing.assert_allclose((x * 255).permute(1, 2, 0).numpy(), cut, atol=2.1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_of_8_bits_is_taken(mode, channels):
    source = "L" if mode == "PA" else "RGB"
    image = Image.new(source, (40, 40), "white").convert("P" if mode == "PA" else mode)
    image = image.convert(mode)
    x = named(channels=channels).prepare(image)
    assert x.shape == (channels, 32, 32)
    assert float(x[0].min()) > 0.99


def test_files_of_every_kind_are_read_or_refused_in_words(tmp_path):
    gray = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 20
    Image.fromarray(gray).save(tmp_path / "16.png")
    Image.new("CMYK", (48, 48), "white").save(tmp_path / "cmyk.jpg")
    transparent = Image.new("P", (48, 48))
    transparent.save(tmp_path / "palette.png", transparency=bytes([0, 9]))
    frames = [Image.new("RGB", (48, 48), c) for c in ("red", "blue")]
    for suffix in ("png", "webp", "tiff"):
        file = tmp_path / f"animated.{suffix}"
        frames[0].save(file, save_all=True, append_images=frames[1:])
    for file in sorted(tmp_path.iterdir()):
        assert named().prepare(open_image(file)).shape == (3, 32, 32), file
    assert named().prepare(open_image(tmp_path / "animated.png"))[0].min() == 1  # the first


def test_damaged_exif_does_not_hide_a_photograph():
    image = Image.new("RGB", (40, 40), "white")
    for exif in (b"Exif\0\0garbage", b"II*\0\xff\xff\xff\xff", b"\0", b"MM\0*\0\0\0\x08\xff\xff"):
        image.info["exif"] = exif
        assert float(named().prepare(image).min()) > 0.99


def png(width, height):
    """A file of a few bytes that says it has so many pixels."""

    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG", png(2**31 - 1, 2**31 - 1), png(40_000, 40_000), png(8, 8), png(0, 8),
     b"P6 0 0 255\n", b"P6 100000 100000 255\n", b"\xff\xd8\xff\xe0" + bytes(60), b"GIF89a"],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_image_is_refused(tmp_path, content):
    file = tmp_path / "x.png"
    file.write_bytes(content)
    with pytest.raises(PatchShapError, match=r"image: got .*; expected"):
        named().prepare(open_image(file))


def test_an_image_of_no_pixels_is_refused():
    with pytest.raises(PatchShapError, match="image: got 0 x 8 pixels; expected at least one"):
        named().prepare(Image.new("RGB", (0, 8)))


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "loop", "dangling"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("needs pipes with a name")
        os.mkfifo(path)
    elif kind in ("loop", "dangling"):
        path.symlink_to("x.png" if kind == "loop" else "gone.png")
    with pytest.raises(PatchShapError, match=r"image: got '.*x.png'; expected a readable image"):
        open_image(path)
