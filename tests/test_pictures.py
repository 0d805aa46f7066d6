from __future__ import annotations

import gc
import hashlib
import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fuzz_support import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile, features

from fracbnn_pynq import native, resizing
from fracbnn_pynq.errors import PictureError
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.picturefiles import find_pictures, picture_suffixes
from fracbnn_pynq.pictures import DEFAULT_MAX_PIXELS, load, prepare, read_picture

SAMPLES = Path(__file__).resolve().parents[1] / "notebooks" / "pictures"
LOSSLESS = ["PNG", "BMP", "PPM", "TIFF", "TGA", "SGI"]


def drawing(height: int = 30, width: int = 40) -> np.ndarray:
    """Flat patches of random colours: no symmetry, few enough colours for a palette."""
    patches = np.random.default_rng(7).integers(0, 256, (-(-height // 5), -(-width // 5), 3), dtype=np.uint8)
    return np.ascontiguousarray(patches.repeat(5, axis=0).repeat(5, axis=1)[:height, :width])


def encode(image: Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file put together by hand: a header and the given chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert (found == expected).all()


# --- forms of one picture ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_come_back_bit_for_bit(form: str) -> None:
    assert_same(read_picture(encode(drawing(), form)), drawing())


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    data = encode(drawing(), "PNG")
    path = tmp_path / "p.png"
    path.write_bytes(data)
    with path.open("rb") as file, Image.open(path) as image:
        sources = [str(path), path, data, bytearray(data), memoryview(data), file, io.BytesIO(data), image, drawing()]
        for source in sources:
            assert_same(read_picture(source), drawing())
        assert not file.closed
        assert_same(np.asarray(image), drawing())


def test_strided_memoryview() -> None:
    data = encode(drawing(), "PNG")
    spaced = bytearray(2 * len(data))
    spaced[::2] = data
    assert_same(read_picture(memoryview(spaced)[::2]), drawing())


def test_file_object_is_read_from_its_position() -> None:
    data = encode(drawing(), "PNG")
    stream = io.BytesIO(b"header" + data)
    stream.seek(6)
    assert_same(read_picture(stream), drawing())
    with pytest.raises(PictureError, match="read to its end before"):
        read_picture(stream)


def test_pipe() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "wb") as writer:
        writer.write(encode(drawing(), "PNG"))
        writer.close()
        assert_same(read_picture(reader), drawing())


def test_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really.jpg"
    path.write_bytes(encode(drawing(), "PNG"))
    assert_same(read_picture(path), drawing())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}])
def test_jpeg_is_what_pillow_decodes(options: dict[str, object]) -> None:
    data = encode(drawing(), "JPEG", **options)
    with Image.open(io.BytesIO(data)) as image:
        assert_same(read_picture(data), np.asarray(image))


def test_cmyk_jpeg() -> None:
    data = encode(Image.fromarray(drawing()).convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        assert_same(read_picture(data), np.asarray(image.convert("RGB")))
    assert abs(read_picture(data).astype(int) - drawing()).mean() < 12  # inks the right way round


@pytest.mark.skipif(not features.check("webp"), reason="this Pillow has no WebP")
@pytest.mark.parametrize("lossless", [True, False])
def test_webp(lossless: bool) -> None:
    data = encode(drawing(), "WEBP", lossless=lossless, quality=90)
    difference = abs(read_picture(data).astype(int) - drawing())
    assert difference.max() == 0 if lossless else difference.mean() < 20


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_first_frame_of_several(form: str) -> None:
    if form == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    first, second = Image.fromarray(drawing()), Image.new("RGB", (40, 30), "red")
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(first, form, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2
    if form == "GIF":
        with Image.open(io.BytesIO(encode(first, "GIF"))) as image:
            assert_same(read_picture(data), np.asarray(image.convert("RGB")))
    else:
        assert_same(read_picture(data), drawing())


def test_pillow_image_at_its_current_frame() -> None:
    data = encode(Image.fromarray(drawing()), "TIFF", save_all=True, append_images=[Image.new("RGB", (8, 9), "red")])
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        assert_same(read_picture(image), np.full((9, 8, 3), (255, 0, 0), np.uint8))


# --- modes -------------------------------------------------------------------------------------------------------


def test_grey_and_one_bit() -> None:
    grey = drawing()[..., 0]
    assert_same(read_picture(encode(grey, "PNG")), np.dstack([grey] * 3))
    bits = Image.fromarray(grey > 100)
    assert bits.mode == "1"
    assert_same(read_picture(encode(bits, "PNG")), np.dstack([(grey > 100) * np.uint8(255)] * 3))


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    colours = np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8)
    assert_same(read_picture(encode(image, "PNG")), colours)
    one_clear = colours.copy()
    one_clear[0, 1] = 255
    assert_same(read_picture(encode(image, "PNG", transparency=1)), one_clear)
    assert_same(read_picture(encode(image, "GIF", transparency=1)), one_clear)
    mixed = read_picture(encode(image, "PNG", transparency=bytes([255, 0, 51])))  # 51 = 255 / 5
    assert_same(mixed, np.array([[[10, 20, 30], [255, 255, 255], [218, 220, 222]]], np.uint8))


def test_colour_keys() -> None:
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert_same(read_picture(encode(rgb, "PNG", transparency=(1, 2, 3))), np.array([[[255] * 3, [4, 5, 6]]], np.uint8))
    assert_same(
        read_picture(encode(np.array([[7, 8]], np.uint8), "PNG", transparency=7)),
        np.array([[[255] * 3, [8] * 3]], np.uint8),
    )
    rows = zlib.compress(b"\x00" + struct.pack(">2H", 257, 514))
    data = png(2, 1, 16, 0, (b"tRNS", struct.pack(">H", 257)), (b"IDAT", rows))
    assert_same(read_picture(data), np.array([[[255] * 3, [2] * 3]], np.uint8))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_shown_on_white(mode: str) -> None:
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    expected = np.dstack([(2 * (colour * alpha + 255 * (255 - alpha)) + 255) // 510] * 3).astype(np.uint8)
    planes = [colour] * (len(mode) - 1) + [alpha]
    values = np.dstack(planes).astype(np.uint8)
    assert_same(read_picture(Image.fromarray(values)), expected)
    assert_same(read_picture(encode(values, "PNG")), expected)
    if mode == "RGBA":
        assert_same(read_picture(values), expected)


@pytest.mark.parametrize(("mode", "through"), [("La", "LA"), ("RGBa", "RGBA"), ("PA", "RGBA")])
def test_unusual_alpha_modes(mode: str, through: str) -> None:
    rgba = Image.fromarray(np.dstack([drawing(), drawing()[..., 1]]))
    if mode == "PA":
        image = rgba.convert("RGB").convert("P").convert("PA")
        image.putalpha(rgba.getchannel("A"))
    else:
        image = rgba.convert(through).convert(mode)
    assert image.mode == mode
    assert_same(read_picture(image), read_picture(np.asarray(image.convert(through).convert("RGBA"))))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX"])
def test_colour_spaces(mode: str) -> None:
    image = Image.fromarray(drawing()).convert(mode)
    assert_same(read_picture(image), np.asarray(image.convert("RGB")))
    assert abs(read_picture(image).astype(int) - drawing()).mean() < 4


@pytest.mark.skipif(not features.check("littlecms2"), reason="this Pillow has no colour management")
def test_lab() -> None:
    # White, sRGB's pure red under D50 (L* = 54.3, a* = 80.8, b* = 69.9) and black; as 2.55 L*, 128 + a*, 128 + b*.
    # Eight bits of a* and b* cannot hit the red exactly, and near 0 sRGB is steep: half a step is several levels.
    bands = ((255, 138, 0), (128, 209, 128), (128, 198, 128))
    image = Image.merge("LAB", [Image.frombytes("L", (3, 1), bytes(band)) for band in bands])
    expected = np.array([[[255, 255, 255], [255, 0, 0], [0, 0, 0]]])
    assert abs(read_picture(image).astype(int) - expected).max() <= 6


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PGM"])
def test_sixteen_bit_grey_files(form: str) -> None:
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65407, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1, 127, 128, 255, 255]], np.uint8)
    data = b"P5 8 1 65535\n" + values.astype(">u2").tobytes() if form == "PGM" else encode(values, form)
    assert_same(read_picture(data), np.dstack([expected] * 3))


def test_sixteen_bit_colour_png_keeps_the_upper_byte() -> None:
    rows = zlib.compress(b"\x00" + struct.pack(">6H", 0, 0x1234, 0xFFFF, 0x80FF, 0x8000, 0x7FFF))
    expected = np.array([[[0, 0x12, 0xFF], [0x80, 0x80, 0x7F]]], np.uint8)
    assert_same(read_picture(png(2, 1, 16, 2, (b"IDAT", rows))), expected)


def test_thirty_two_bit_grey_counts_as_sixteen_bit() -> None:
    image = Image.fromarray(np.array([[0, 257, 65535]], np.int32))
    assert image.mode == "I"
    assert_same(read_picture(image), np.array([[[0] * 3, [1] * 3, [255] * 3]], np.uint8))
    for bad in (-1, 65536):
        with pytest.raises(PictureError, match=r"0\.\.65535"):
            read_picture(Image.fromarray(np.array([[bad, 5]], np.int32)))


def test_float_files() -> None:
    image = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    assert image.mode == "F"
    assert_same(read_picture(encode(image, "TIFF")), np.array([[[0] * 3, [128] * 3, [255] * 3]], np.uint8))
    with pytest.raises(PictureError, match=r"0\.\.1, found 0\.\.255"):
        read_picture(Image.fromarray(np.array([[0, 255]], np.float32)))


# --- arrays ------------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.sampled_from([size, (*size, 1), (*size, 3)])
)


@given(st.data(), shapes)
def test_array_forms(data: st.DataObject, shape: tuple[int, ...]) -> None:
    values = data.draw(hnp.arrays(np.uint8, shape))
    expected = np.broadcast_to(values.reshape(*shape[:2], -1), (*shape[:2], 3))
    wide = values.astype(np.uint16) * 257
    bits = values >= 128
    assert_same(read_picture(values), expected)
    assert_same(read_picture(wide), expected)
    assert_same(read_picture(wide.astype(">u2")), expected)
    assert_same(read_picture(values.astype(np.float64) / 255), expected)
    assert_same(read_picture(values.astype(np.float32) / np.float32(255)), expected)
    assert_same(read_picture(bits), np.where(expected >= 128, 255, 0).astype(np.uint8))
    assert_same(read_picture(np.asfortranarray(values)), expected)
    assert_same(read_picture(values[::-1]), expected[::-1])


@given(hnp.arrays(np.uint16, (4, 4)))
def test_sixteen_bit_values_are_rounded_to_the_nearest(values: np.ndarray) -> None:
    exact = [[round(Fraction(int(v), 257)) for v in row] for row in values]
    assert_same(read_picture(values), np.dstack([np.array(exact, np.uint8)] * 3))


def test_bgr_arrays() -> None:
    rgb = drawing()
    alpha = rgb[..., 1:2]
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    assert_same(read_picture(bgr, bgr=True), rgb)
    bgra = np.concatenate([bgr, alpha], axis=2)
    assert_same(read_picture(bgra, bgr=True), read_picture(np.concatenate([rgb, alpha], axis=2)))
    assert_same(read_picture(rgb[..., 0], bgr=True), np.dstack([rgb[..., 0]] * 3))
    assert_same(load(bgr, CIFAR10, bgr=True), load(rgb, CIFAR10))
    with pytest.raises(PictureError, match="bgr=True is for arrays"):
        read_picture(encode(rgb, "PNG"), bgr=True)


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 2), (3, 8, 8), (4, 4, 5), (2, 4, 4, 3), (1, 1, 4, 4, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match=r"array: expected one picture as \[H, W\].*found shape"):
        read_picture(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0), (0, 0, 4)])
def test_arrays_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match="at least one pixel"):
        read_picture(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.uint32, np.complex64, object, "S1", "U1", "M8[s]"])
def test_arrays_of_other_dtypes_are_refused(dtype: object) -> None:
    with pytest.raises(PictureError, match="expected values of bool, uint8, uint16 or float"):
        read_picture(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_floats_outside_the_unit_range_are_refused(value: float) -> None:
    values = np.full((4, 4, 3), 0.5)
    values[1, 2, 0] = value
    with pytest.raises(PictureError, match=r"float values in 0\.\.1, found"):
        read_picture(values)


# --- orientation -------------------------------------------------------------------------------------------------

UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation: int) -> None:
    expected = UPRIGHT[orientation](drawing())
    assert_same(read_picture(encode(drawing(), "PNG", exif=exif(orientation))), expected)
    assert_same(read_picture(encode(drawing(), "TIFF", tiffinfo={0x0112: orientation})), expected)
    data = encode(drawing(), "JPEG", exif=exif(orientation))
    with Image.open(io.BytesIO(data)) as image:
        assert_same(read_picture(data), UPRIGHT[orientation](np.asarray(image)))
        assert_same(read_picture(image), read_picture(data))
    assert read_picture(data).flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_counts_as_upright(orientation: int) -> None:
    assert_same(read_picture(encode(drawing(), "PNG", exif=exif(orientation))), drawing())


@pytest.mark.parametrize(
    ("form", "tail"),
    [
        ("JPEG", b""),
        ("JPEG", b"MM\x00*\x00\x00\xff\xff"),
        ("JPEG", b"I" * 40),
        ("PNG", b"MM\x00*\x00\x00\x00"),  # older Pillow takes a JPEG with such a block for no picture at all
        ("PNG", b"I" * 40),
    ],
)
def test_damaged_exif_does_not_spoil_the_picture(form: str, tail: bytes) -> None:
    data = encode(drawing(), form, exif=b"Exif\x00\x00" + tail)
    assert_same(read_picture(data), read_picture(encode(drawing(), form)))


# --- trouble -----------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"absent\.png'.*no file of this name"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(PictureError, match="no file of this name"):
        read_picture("")


def test_impossible_file_name() -> None:
    with pytest.raises(PictureError, match="null"):
        read_picture("a\0b.png")
    with pytest.raises(PictureError, match="long"):
        read_picture("x" * 5000)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="found a folder"):
        read_picture(tmp_path)


def test_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(PictureError, match="regular file"):
        read_picture(tmp_path / "fifo")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(PictureError, match=r"empty\.jpg: expected a picture, found nothing"):
        read_picture(path)
    with pytest.raises(PictureError, match="bytes: expected a picture, found nothing"):
        read_picture(b"")


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture at all")
    with pytest.raises(PictureError, match=r"notes\.jpg: .*beginning with b'not a pi'"):
        read_picture(path)


def test_text_mode_file_object() -> None:
    with pytest.raises(PictureError, match="open it in binary mode"):
        read_picture(io.StringIO("text"))


def test_closed_file_object(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(encode(drawing(), "PNG"))
    with path.open("rb") as file:
        pass
    with pytest.raises(PictureError, match=r"file object '.*p\.png': .*closed file"):
        read_picture(file)


def test_failing_file_object() -> None:
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise OSError("cable pulled")

    with pytest.raises(PictureError, match="cable pulled"):
        read_picture(Failing())


@pytest.mark.parametrize("source", [None, 7, [[1, 2], [3, 4]], object(), np.uint8(3)])
def test_wrong_type(source: object) -> None:
    with pytest.raises(PictureError, match=f"found an object of type {type(source).__name__}"):
        read_picture(source)


def test_eps_is_not_run() -> None:
    data = encode(drawing(), "EPS")
    with pytest.raises(PictureError, match="bytes: EPS is not read"):
        read_picture(data)
    with Image.open(io.BytesIO(data)) as image, pytest.raises(PictureError, match="Pillow image: EPS is not read"):
        read_picture(image)


def test_pillow_image_without_pixels_or_closed() -> None:
    with pytest.raises(PictureError, match="at least one pixel"):
        read_picture(Image.new("RGB", (0, 5)))
    image = Image.open(io.BytesIO(encode(drawing(), "PNG")))
    image.close()
    with pytest.raises(PictureError, match="Pillow image: cannot be read"):
        read_picture(image)


CUT_FORMATS = [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("BMP", {})]


@pytest.mark.parametrize(("form", "options"), [*CUT_FORMATS, ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {})])
def test_cut_file_is_never_filled_up(form: str, options: dict[str, object]) -> None:
    if form == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = encode(drawing(), form, **options)
    whole = read_picture(data)
    refused = 0
    for length in range(0, len(data), 1 if len(data) < 1500 else 7):
        try:
            assert_same(read_picture(data[:length]), whole)  # only an ending without pixels was missing
        except PictureError:
            refused += 1
    assert refused > len(data) / 10
    with pytest.raises(PictureError):
        read_picture(data[: len(data) // 2])


def test_cut_pillow_image() -> None:
    data = encode(drawing(200, 200), "JPEG")
    with Image.open(io.BytesIO(data[: len(data) // 2])) as image, pytest.raises(PictureError, match="truncated"):
        read_picture(image)


# --- bombs -------------------------------------------------------------------------------------------------------


def test_bomb_is_refused_from_its_header() -> None:
    bomb = png(20000, 20000, 8, 2, (b"IDAT", zlib.compress(bytes(1_000_000))))
    assert len(bomb) < 2000
    read_picture(encode(drawing(), "PNG"))  # import the decoders first
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(PictureError, match=r"bytes: .*pixels"):
            read_picture(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 1
    assert peak < 5_000_000


def test_limit_lies_below_pillows_and_names_the_sizes() -> None:
    wide = png(DEFAULT_MAX_PIXELS + 1, 1, 1, 0, (b"IDAT", b""))
    with pytest.raises(PictureError, match="expected at most 64000000 pixels, found 64000001x1"):
        read_picture(wide)
    above_pillows_warning = png(10000, 10000, 1, 0, (b"IDAT", b""))
    with pytest.raises(PictureError, match="found 10000x10000"):
        read_picture(above_pillows_warning)


def test_own_limit() -> None:
    for source in (encode(drawing(), "PNG"), Image.fromarray(drawing())):
        assert_same(read_picture(source, max_pixels=1200), drawing())
        with pytest.raises(PictureError, match="expected at most 1199 pixels, found 40x30"):
            read_picture(source, max_pixels=1199)
        with pytest.raises(PictureError, match="1199"):
            load(source, CIFAR10, max_pixels=1199)
    assert_same(read_picture(drawing(), max_pixels=1), drawing())


def test_a_large_legal_picture_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(encode(drawing(), "PNG"))).close()
    assert_same(read_picture(encode(drawing(), "PNG")), drawing())
    with pytest.raises(PictureError, match=r"4800 pixels\) exceeds limit"):
        read_picture(encode(drawing(60, 80), "PNG"))


def test_nothing_global_is_changed() -> None:
    before = (list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    read_picture(encode(drawing(), "PNG"))
    with pytest.raises(PictureError):
        read_picture(b"x")
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before


# --- damage, leaks, threads --------------------------------------------------------------------------------------

FUZZED = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("GIF", {}),
    ("WEBP", {}),
    ("TIFF", {}),
    ("BMP", {}),
]
SEEDS = [
    encode(drawing(), form, **options, **({} if form in ("GIF", "BMP", "TIFF") else {"exif": exif(6)}))
    for form, options in FUZZED
    if form != "WEBP" or features.check("webp")
]


@settings(max_examples=examples(600), deadline=None)
@given(st.data())
def test_fuzz_of_damaged_files_gives_a_picture_or_a_picture_error(data: st.DataObject) -> None:
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    place = st.one_of(st.integers(0, min(200, len(seed) - 1)), st.integers(0, len(seed) - 1))
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)):
        seed[at] = value
    begin, end = sorted(data.draw(st.tuples(st.integers(0, len(seed)), st.integers(0, len(seed)))))
    damaged = data.draw(st.sampled_from([bytes(seed), bytes(seed[:end]), bytes(seed[:begin] + seed[end:])]))
    try:
        picture = read_picture(damaged, max_pixels=4_000_000)
    except PictureError as error:
        assert str(error)
    else:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert prepare(picture, CIFAR10).shape == (32, 32, 3)


@given(st.binary(max_size=200), st.sampled_from([seed[:12] for seed in SEEDS] + [b"", b"%!PS-Adobe", b"8BPS", b"P6 "]))
def test_fuzz_of_random_bytes_gives_a_picture_or_a_picture_error(tail: bytes, head: bytes) -> None:
    try:
        picture = read_picture(head + tail, max_pixels=10_000)
    except PictureError as error:
        assert str(error)
    else:
        assert 0 < picture.size <= 30_000


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path: Path) -> None:
    paths = []
    for number, seed in enumerate(SEEDS):
        for part in (len(seed), len(seed) // 2, 10):
            paths.append(tmp_path / f"{number}-{part}")
            paths[-1].write_bytes(seed[:part])
    outcomes = []
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for path in paths:
            try:
                outcomes.append(read_picture(path).ndim)
            except PictureError:
                outcomes.append(0)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
    assert set(outcomes) == {0, 3}


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    before = list(warnings.filters)
    pictures = [drawing(30 + n, 40 + n) for n in range(8)]
    datas = [encode(picture, "PNG", exif=exif(1)) for picture in pictures]
    gate = threading.Barrier(8)

    def work(number: int) -> bool:
        gate.wait()
        for _ in range(20):
            with pytest.raises(PictureError):
                read_picture(datas[number][:-60])
            assert_same(read_picture(datas[number]), pictures[number])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert list(warnings.filters) == before


# --- preparing for CIFAR-10 --------------------------------------------------------------------------------------


def exact_area_mean(square: np.ndarray, size: int) -> np.ndarray:
    """The definition, in fractions: the shares of the source's rows and columns in each of the result's."""
    ratio = Fraction(square.shape[0], size)
    weights = np.array(
        [
            [max(Fraction(0), min((i + 1) * ratio, j + 1) - max(i * ratio, j)) / ratio for j in range(square.shape[0])]
            for i in range(size)
        ],
        dtype=object,
    )
    means = [weights @ square[..., colour].astype(int).astype(object) @ weights.T for colour in range(3)]
    return np.floor(np.dstack(means) + Fraction(1, 2)).astype(np.uint8)


@given(hnp.arrays(np.uint8, (32, 32, 3)))
def test_cifar_sized_pictures_are_unchanged(picture: np.ndarray) -> None:
    prepared = prepare(picture, CIFAR10)
    assert_same(prepared, picture)
    assert not np.shares_memory(prepared, picture)
    assert_same(load(encode(picture, "PNG"), CIFAR10), picture)


@pytest.mark.parametrize("edge", [33, 47, 64, 70])
def test_area_mean_is_exact(edge: int) -> None:
    square = np.random.default_rng(edge).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    assert_same(prepare(square, CIFAR10), exact_area_mean(square, 32))


@pytest.mark.parametrize("edge", [33, 47, 64, 70])
def test_area_mean_without_native_kernels_is_exact(edge: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "extension", None)
    square = np.random.default_rng(edge).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    assert_same(prepare(square, CIFAR10), exact_area_mean(square, 32))


@pytest.mark.skipif(not native.available(), reason="the native kernels were not built")
@given(st.integers(1, 40), st.integers(0, 300), st.integers(0, 4), st.sampled_from(["rows", "columns", "colours"]))
def test_native_area_mean_is_the_reference(size: int, more: int, margin: int, flipped: str) -> None:
    edge = size + more
    whole = np.random.default_rng(edge).integers(0, 256, (edge + margin, edge + 2 * margin, 3), dtype=np.uint8)
    square = whole[margin:, margin : margin + edge]
    axis = ["rows", "columns", "colours"].index(flipped)
    for view in (square, np.flip(square, axis), square.swapaxes(0, 1)):
        assert_same(resizing.area_mean(view, size), resizing.area_mean_reference(view, size))


@given(st.integers(1, 5), hnp.arrays(np.uint8, (32, 32, 3)))
def test_enlarged_pixels_shrink_back(factor: int, picture: np.ndarray) -> None:
    assert_same(prepare(picture.repeat(factor, axis=0).repeat(factor, axis=1), CIFAR10), picture)


def test_half_is_rounded_up() -> None:
    square = np.zeros((64, 64, 3), np.uint8)
    square[::2, ::2] = 2  # mean 0.5
    assert (prepare(square, CIFAR10) == 1).all()


def test_centre_square() -> None:
    picture = np.zeros((40, 33, 3), np.uint8)
    picture[3:36] = 200
    assert (prepare(picture, CIFAR10) == 200).all()
    assert (prepare(picture.swapaxes(0, 1), CIFAR10) == 200).all()


def test_small_pictures_are_enlarged_smoothly() -> None:
    square = drawing(16, 16)
    with_pillow = Image.fromarray(square).resize((32, 32), Image.Resampling.BILINEAR)
    assert_same(prepare(square, CIFAR10), np.asarray(with_pillow))


# --- preparing for ImageNet --------------------------------------------------------------------------------------


def torchvision_rule(picture: np.ndarray) -> np.ndarray:
    """Resize(256), CenterCrop(224) as torchvision defines them, with whole intermediate pictures."""
    height, width = picture.shape[:2]
    short, long = sorted((height, width))
    longer = int(256 * long / short)
    new_width, new_height = (256, longer) if width <= height else (longer, 256)
    image = Image.fromarray(picture).resize((new_width, height), Image.Resampling.BILINEAR)
    image = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = round((new_height - 224) / 2.0), round((new_width - 224) / 2.0)
    return np.asarray(image)[top : top + 224, left : left + 224]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 9))
def test_imagenet_rule(height: int, width: int, seed: int) -> None:
    if max(height, width) > 32 * min(height, width):
        width = height
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert_same(prepare(picture, IMAGENET), torchvision_rule(picture))


def test_picture_of_network_size_follows_the_rule() -> None:
    picture = drawing(224, 224)
    assert_same(prepare(picture, IMAGENET), torchvision_rule(picture))
    assert (prepare(picture, IMAGENET) != picture).any()


@pytest.mark.parametrize("length", [64, 300])
def test_extreme_aspect_is_the_rule_without_the_far_ends(length: int) -> None:
    strip = np.random.default_rng(length).integers(0, 256, (1, length, 3), dtype=np.uint8)
    assert_same(prepare(strip, IMAGENET), torchvision_rule(strip))
    assert_same(prepare(strip.swapaxes(0, 1), IMAGENET), torchvision_rule(strip.swapaxes(0, 1)))


@pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=lambda network: network.name)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 9999), (20_000_000, 1)])
def test_extreme_shapes_need_little_memory(network: object, shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 77, np.uint8)
    tracemalloc.start()
    try:
        prepared = prepare(picture, network)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_same(prepared, np.full((network.image_size, network.image_size, 3), 77, np.uint8))
    assert peak < 20_000_000


def test_photographs_give_the_published_crops(shared: Path) -> None:
    with np.load(shared / "data" / "imagenet_photos_125.npz", allow_pickle=False) as photos:
        jpeg, offsets, expected = photos["jpeg"], photos["offsets"], photos["crop_sha1"]
    found = [
        hashlib.sha1(load(jpeg[begin:end].tobytes(), IMAGENET).tobytes()).hexdigest()
        for begin, end in itertools.pairwise(offsets)
    ]
    same = sum(a == b for a, b in zip(found, expected.tolist(), strict=True))
    decoder = features.version("libjpeg_turbo")
    if same < len(found) and decoder != "3.2.0":
        pytest.skip(f"crops were made with libjpeg-turbo 3.2.0; with {decoder} {same} of {len(found)} are the same")
    assert same == len(found) == 125


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((0, 32, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
)
def test_prepare_refuses_what_is_no_picture(picture: object) -> None:
    with pytest.raises(PictureError, match="expected"):
        prepare(picture, CIFAR10)


# --- finding -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = "b.jpg a.PNG notes.txt .hidden.jpg sub/c.webp sub/deep/d.gif .cache/e.jpg odd[1].jpg data.bin"
    for name in names.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.as_posix() for path in paths]


def test_find_in_folder(tree: Path) -> None:
    assert names(find_pictures(["."])) == ["a.PNG", "b.jpg", "odd[1].jpg", "sub/c.webp", "sub/deep/d.gif"]
    assert find_pictures([tree / "sub"]) == [tree / "sub" / "c.webp", tree / "sub" / "deep" / "d.gif"]
    assert names(find_pictures([".cache"])) == [".cache/e.jpg"]


def test_find_by_name_and_glob(tree: Path) -> None:
    assert names(find_pictures(["notes.txt", "data.bin"])) == ["notes.txt", "data.bin"]
    assert names(find_pictures(["odd[1].jpg"])) == ["odd[1].jpg"]
    assert names(find_pictures(["*.jpg"])) == ["b.jpg", "odd[1].jpg"]
    assert names(find_pictures(["*"])) == ["a.PNG", "b.jpg", "odd[1].jpg"]
    assert names(find_pictures(["**/*.gif"])) == ["sub/deep/d.gif"]
    assert names(find_pictures([Path("sub/*.webp")])) == ["sub/c.webp"]
    assert names(find_pictures("b.jpg")) == ["b.jpg"]
    assert find_pictures([]) == []


def test_find_keeps_the_order_and_each_file_once(tree: Path) -> None:
    assert names(find_pictures(["sub", "b.jpg", tree / "b.jpg", "sub/../b.jpg", "a.PNG", "sub/*.webp"])) == [
        "sub/c.webp",
        "sub/deep/d.gif",
        "b.jpg",
        "a.PNG",
    ]


@pytest.mark.parametrize("pattern", ["absent.jpg", "empty", "*.tif", "*.txt", "", "**/*.bmp", "folder.jpg"])
def test_patterns_without_a_picture_are_refused(tree: Path, pattern: str) -> None:
    if pattern == "":
        tree = tree / "empty"
        os.chdir(tree)
    with pytest.raises(PictureError, match=r"found (none|no such file)"):
        find_pictures([tree / "b.jpg" if pattern != "" else tree.parent / "b.jpg", pattern])


def test_suffixes_are_lower_case_and_dotted() -> None:
    suffixes = picture_suffixes()
    assert {".jpg", ".jpeg", ".png", ".webp", ".psd", ".qoi", ".ico", ".mpo"} <= suffixes
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".emf", ".iim", ".blp"} & suffixes
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes)


# --- the samples and the module ----------------------------------------------------------------------------------


def test_sample_pictures() -> None:
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    found = find_pictures([SAMPLES])
    assert [path.name for path in found] == ["cat.jpg", "coffee.jpg", "rocket.jpg"]
    for path in found:
        height, width = read_picture(path).shape[:2]
        assert f"`{path.name}`, {width}x{height}" in readme
        assert max(height, width) <= 640
        assert path.stat().st_size < 60_000
        for network in (CIFAR10, IMAGENET):
            assert load(path, network).std() > 10


def test_import_is_light() -> None:
    code = "import sys, fracbnn_pynq.pictures; print(*{'cv2', 'torch', 'PIL.JpegImagePlugin'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
