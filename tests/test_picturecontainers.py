"""Files around pictures: metadata that must not cost a picture, and directories that hide larger ones."""

from __future__ import annotations

import io
import logging
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_support import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fracbnn_pynq import picturecontainers
from fracbnn_pynq.errors import PictureError
from fracbnn_pynq.picturefiles import find_pictures, picture_suffixes
from fracbnn_pynq.pictures import read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


PNG = encoded(Image.fromarray(PIXELS))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def wrong(good: bytes) -> bytes:
    return good[:-1] + bytes([good[-1] ^ 1])


def grey_png(bits: int, width: int, row: bytes, key: int | None = None) -> bytes:
    header = struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0)
    transparency = b"" if key is None else chunk(b"tRNS", struct.pack(">H", key))
    parts = chunk(b"IHDR", header) + transparency + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return PNG[:8] + parts


def with_chunks(*chunks: bytes, after: bool = False) -> bytes:
    """``chunks`` behind the header, or before the end."""
    at = -12 if after else 33
    return PNG[:at] + b"".join(chunks) + PNG[at:]


BOMB = zlib.compress(b"a" * 8_000_000, 9)

METADATA = {
    "compressed text of 8 MB": [chunk(b"zTXt", b"k\0\0" + BOMB)],
    "compressed international text of 8 MB": [chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)],
    "a profile of 8 MB": [chunk(b"iCCP", b"icc\0\0" + BOMB)],
    "a hundred texts": [chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 900_000, 9))] * 100,
    "text of 2 MB": [chunk(b"tEXt", b"k\0" + b"a" * 2_000_000)],
    "ImageMagick's profile, a bomb": [chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)],
    "ImageMagick's profile, damaged": [chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB[:100])],
    "a profile that is none": [chunk(b"iCCP", b"nonsense")],
    "a wrong checksum in text": [wrong(chunk(b"tEXt", b"a\0bcd"))],
    "a wrong checksum in a profile": [wrong(chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"abc")))],
    "a wrong checksum in the gamma": [wrong(chunk(b"gAMA", b"\0\1\2\3"))],
    "a wrong checksum in the transparency": [wrong(chunk(b"tRNS", PIXELS[0, 0].astype(">u2").tobytes()))],
    "a wrong checksum in the orientation": [
        wrong(chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"))
    ],
    "an unknown chunk": [chunk(b"abCd", b"?" * 100)],
    "animation": [chunk(b"acTL", struct.pack(">II", 3, 0))],
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("chunks", METADATA.values(), ids=METADATA)
def test_metadata_do_not_cost_a_picture(chunks: list[bytes], after: bool):
    content = with_chunks(*chunks, after=after)
    tracemalloc.start()
    assert np.array_equal(read_picture(content), PIXELS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(content) + (4 << 20)


def test_what_speaks_of_the_pixels_is_kept():
    turned = np.rot90(PIXELS, -1)
    exif = Image.Exif()
    exif[0x112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 10)
    content = encoded(Image.fromarray(PIXELS), exif=exif.tobytes(), pnginfo=text)
    assert np.array_equal(read_picture(content), turned)
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<rdf xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    assert np.array_equal(read_picture(with_chunks(chunk(b"iTXt", xmp))), turned)
    profile = b"\nexif\n%8d\n%s\n" % (len(exif.tobytes()), exif.tobytes().hex().encode())
    magick = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    assert np.array_equal(read_picture(with_chunks(magick)), turned)
    key = chunk(b"tRNS", PIXELS[0, 0].astype(">u2").tobytes())
    shown = PIXELS.copy()
    shown[np.equal(PIXELS, PIXELS[0, 0]).all(axis=2)] = 255
    assert np.array_equal(read_picture(with_chunks(key)), shown)


def test_a_wrong_checksum_in_the_header_is_an_error():
    with pytest.raises(PictureError):
        read_picture(PNG[:32] + bytes([PNG[32] ^ 1]) + PNG[33:])


def test_a_plain_file_is_not_copied():
    stream = io.BytesIO(PNG)
    assert picturecontainers.for_decoder(stream) is stream
    assert stream.tell() == 0


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_fuzz_of_chunks(data: st.DataObject):
    whole = with_chunks(*METADATA["an unknown chunk"], chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"))
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    try:
        found = read_picture(bytes(content), max_pixels=10_000)
    except PictureError:
        return
    assert found.shape[2] == 3


# Grey


@pytest.mark.parametrize(
    ("bits", "row", "values"),
    [
        (1, b"\x0f", [0] * 4 + [255] * 4),
        (2, b"\x1b", [0, 85, 170, 255]),
        (4, b"\x13\xf0", [17, 51, 255, 0]),
        (8, b"\x00\x64\xff", [0, 100, 255]),
    ],
)
def test_a_transparent_grey_of_few_bits(bits: int, row: bytes, values: list[int]):
    plain = read_picture(grey_png(bits, len(values), row))
    assert plain[0, :, 0].tolist() == values
    step = 255 // ((1 << bits) - 1)
    for key in {value // step for value in values}:
        content = grey_png(bits, len(values), row, key)
        expected = [255 if value == key * step else value for value in values]
        assert read_picture(content)[0, :, 0].tolist() == expected
        assert read_picture(Image.open(io.BytesIO(content)))[0, :, 0].tolist() == expected


def tiff(photometric: int, values: np.ndarray, more: dict[int, int] | None = None) -> bytes:
    """A grey TIFF of one strip."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height, 279: values.nbytes}
    tags = dict(sorted((tags | (more or {})).items()))
    begin = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, begin if tag == 273 else value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + values.astype("<u2").tobytes()


GREY = np.arange(0, 65536, 1311, dtype=np.uint16).reshape(2, 25)


def test_sixteen_bits_that_count_from_white():
    values = GREY
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    assert np.array_equal(read_picture(tiff(1, values))[..., 0], grey)
    assert np.array_equal(read_picture(tiff(0, values))[..., 1], 255 - grey)
    assert np.array_equal(read_picture(Image.open(io.BytesIO(tiff(0, values))))[..., 2], 255 - grey)


# Directories


def bare_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height), 9)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def ico(*pictures: bytes, kind: int = 1) -> bytes:
    at = 6 + 16 * len(pictures)
    directory = data = b""
    for picture in pictures:
        directory += struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), at + len(data))
        data += picture
    return struct.pack("<HHH", 0, kind, len(pictures)) + directory + data


def icns(*pictures: bytes) -> bytes:
    body = b"".join(struct.pack(">4sI", b"ic08", 8 + len(picture)) + picture for picture in pictures)
    return b"icns" + struct.pack(">I", 8 + len(body)) + body


def dib(width: int, height: int) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0) + bytes(64)


def jpeg2000() -> bytes:
    return encoded(Image.new("L", (2000, 1500)), "JPEG2000")


@pytest.mark.parametrize(
    "content",
    [
        ico(bare_png(2000, 1500)),
        ico(bare_png(16, 16), bare_png(2000, 1500)),
        ico(dib(2000, 1500)),
        ico(dib(-2000, 1500)),
        ico(dib(2000, 1500), kind=2),
        icns(bare_png(2000, 1500)),
        icns(bare_png(256, 256), bare_png(2000, 1500)),
        icns(jpeg2000()),
    ],
    ids=range(8),
)
def test_icons_cannot_exceed_the_limit(content: bytes, tmp_path: Path):
    tracemalloc.start()
    with pytest.raises(PictureError, match="expected at most 1000000 pixels, found 2000x1500"):
        read_picture(content, max_pixels=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    (tmp_path / "x.ico").write_bytes(content)
    with pytest.raises(PictureError, match=r"x\.ico: expected at most 1000000 pixels"):
        read_picture(tmp_path / "x.ico", max_pixels=1_000_000)


def test_ordinary_icons_are_read():
    image = Image.fromarray(np.repeat(np.repeat(PIXELS[:12, :12], 4, 0), 4, 1))
    for form, options in (("ICO", {"sizes": [(16, 16), (48, 48)]}), ("ICNS", {})):
        content = encoded(image.resize((48, 48)) if form == "ICO" else image.resize((256, 256)), form, **options)
        assert read_picture(content, max_pixels=1024 * 1024).shape[2] == 3


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_fuzz_of_icons(data: st.DataObject):
    whole = data.draw(st.sampled_from([ico(bare_png(16, 16), dib(16, 16)), icns(bare_png(256, 256))]))
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    try:
        read_picture(bytes(content), max_pixels=100_000)
    except PictureError:
        return


def test_tiles_of_a_tiff_cannot_exceed_the_limit():
    with pytest.raises(PictureError, match="expected at most 64000000 pixels, found 40000x40000"):
        read_picture(tiff(1, GREY, {322: 40_000, 323: 40_000}))


def test_a_raw_file_is_not_taken_for_its_thumbnail():
    assert read_picture(tiff(1, GREY, {254: 0})).shape == (2, 25, 3)
    with pytest.raises(PictureError, match=r"camera's raw file .* thumbnail of 25x2; develop it"):
        read_picture(tiff(1, GREY, {254: 1}))


def test_formats_that_hide_a_size_are_refused():
    image = Image.new("L", (4, 4))
    image.format = "IPTC"
    with pytest.raises(PictureError, match="IPTC is not read, as it hides a picture of any size; convert it to PNG"):
        read_picture(image)


# HEIC


def test_heic_is_named_where_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(picturecontainers, "find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for brand in (b"heic", b"mif1"):
        with pytest.raises(PictureError, match=r"found HEIC .*; install what reads it: pip install pillow-heif"):
            read_picture(b"\0\0\0\x18ftyp" + brand + bytes(20))
    with pytest.raises(PictureError, match="a format that Pillow"):
        read_picture(b"\0\0\0\x18ftypqt  " + bytes(20))


def test_heic():
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    colours = np.zeros((64, 96, 3), np.uint8)
    colours[:32, :48], colours[:32, 48:], colours[32:, :48] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    exif = Image.Exif()
    exif[0x112] = 6
    stream = io.BytesIO()
    heif.from_pillow(Image.fromarray(colours)).save(stream, quality=95, exif=exif.tobytes())
    found = read_picture(stream.getvalue())
    assert np.abs(found.astype(int) - np.rot90(colours, -1).astype(int)).mean() < 10
    with pytest.raises(PictureError, match="expected at most 1000 pixels"):
        read_picture(stream.getvalue(), max_pixels=1000)
    assert ".heic" in picture_suffixes()


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a.png",
        "b.qoi",
        ".DS_Store",
        "Thumbs.db",
        "notes.txt",
        "more.txt",
        "x.heif",
        "LICENSE",
        "__MACOSX/c.png",
        "@eaDir/d.png",
        ".ipynb_checkpoints/e.png",
        "deep/._f.png",
        "deep/g.JPG",
    ):
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    (tmp_path / "all" / "link").symlink_to(tmp_path)
    return tmp_path / "all"


def test_folders_say_what_they_leave_out(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(picturecontainers, "find_spec", lambda name: None)
    picture_suffixes.cache_clear()
    assert [path.name for path in find_pictures([folder])] == ["a.png", "b.qoi", "g.JPG"]
    picture_suffixes.cache_clear()
    (line,) = caplog.messages
    assert line == (
        f"{folder}: 8 left out, not pictures by name: 2 .txt, 1 no ending, 1 .heif, 3 hidden, 1 linked folders; for "
        "HEIC: pip install pillow-heif"
    )


def test_what_systems_leave_behind_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("a.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(PNG)
    caplog.set_level(logging.INFO)
    assert len(find_pictures([tmp_path])) == 1
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "*.png", "a\0b"])
def test_names_that_cannot_be(name: str):
    with pytest.raises(PictureError, match=r"found no(ne| such file)"):
        find_pictures([name])
