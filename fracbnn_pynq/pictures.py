"""Pictures in every form people have them, as uint8 RGB arrays of the size a network reads.

:func:`read_picture` decodes, :func:`prepare` resizes and crops, and :func:`load` does both. Nothing here depends on
the machine: decoded pixels are integers, and the resizing either is exact integer arithmetic or is Pillow's own
fixed-point resize.

Colours are taken as stored: embedded colour profiles are not applied. Transparent pixels are shown on white. EXIF
orientation is applied. Of an animation or a file of many pages the first picture is taken.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, UnidentifiedImageError

from .errors import PictureError
from .networks import Network
from .picturecontainers import check_container, check_icons, enable_heif, for_decoder, grey_bits, white_is_zero
from .resizing import Pixels, area_mean, centre, resize, shorter_side_crop

Picture: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any]
"""A path, an encoded picture in memory, a binary file object, a Pillow image or an array."""

DEFAULT_MAX_PIXELS = 64_000_000
"""Larger encoded pictures are refused before they are decoded (64 megapixels need 192 MB as RGB)."""

MAX_STREAM_SIZE = 1 << 30
"""Bytes read of a file object, which may never end."""

SHORTER_SIDE = {"imagenet": 256}
"""Networks whose pictures are resized to this shorter side, then cropped; the others' are averaged over areas."""

_ORIENTATION_TAG = 0x0112
_ARRAY_FORMS = "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
_AT_ONCE = 1 << 20
"""Pixels of which intermediate results are in memory together."""
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def read_picture(
    source: Picture,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    bgr: bool = False,
    before_decoding: Callable[[Image.Image], None] | None = None,
) -> Pixels:
    """One picture as uint8 [H, W, 3], RGB, upright.

    ``source`` is one of

    * a path, encoded bytes, or a binary file object, which is read from its position to its end and left open: every
      format and mode that the installed Pillow decodes, except EPS (which is a program, not a picture) and two that
      hide the size of what they hold (IPTC, BLP); HEIC where pillow-heif is installed;
    * a Pillow image, at its current frame;
    * an array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGB and alpha) of bool, uint8, uint16 or a float type.
      OpenCV's arrays are BGR: pass ``bgr=True`` for them.

    16-bit values v become round(v / 257), so that 65535 becomes 255; float values must lie in 0..1 and become
    round(255 v); Pillow's 32-bit grey ('I') must lie in 0..65535 and counts as 16-bit. Of 16-bit colour *files* Pillow
    itself keeps the upper eight bits. ``max_pixels`` limits H * W of everything but arrays; it is compared with the
    size in the file's header, before any pixel is decoded. Pillow's own hard limit (twice
    ``PIL.Image.MAX_IMAGE_PIXELS``) stays in force. ``before_decoding`` is called with an encoded picture of which only
    the header has been read; what it raises is the cause of the PictureError that comes of it.

    The result may share memory with ``source`` and may be read-only. Raises
    :class:`~fracbnn_pynq.errors.PictureError`, naming the source, for everything that is not a whole picture. A caller
    that sets Pillow's ``ImageFile.LOAD_TRUNCATED_IMAGES`` gives up the check that it is whole.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, "array", bgr=bgr)
    if bgr:
        raise PictureError(f"bgr=True is for arrays, but the picture is of type {type(source).__name__}")
    if isinstance(source, Image.Image):
        with _naming("Pillow image"):
            return _from_image(source, "Pillow image", max_pixels, before_decoding)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, max_pixels, before_decoding)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_stream(io.BytesIO(bytes(source)), "bytes", max_pixels, before_decoding)
    if hasattr(source, "read"):
        return _from_file_object(source, max_pixels, before_decoding)
    raise PictureError(
        f"expected a picture as a path, bytes, a binary file object, a Pillow image or a NumPy array, found an object "
        f"of type {type(source).__name__}"
    )


def prepare(picture: Pixels, network: Network) -> Pixels:
    """A picture of any size at the size that ``network`` reads: uint8 [H, W, 3] to a new uint8 [S, S, 3].

    * Networks in :data:`SHORTER_SIDE` (ImageNet, S = 224): the shorter side is resized to 256 and the longer one to
      int(256 * longer / shorter) with Pillow's bilinear filter, then the centre is cropped; the rounding is that of
      torchvision's ``Resize(256)`` and ``CenterCrop(224)``. This also holds for pictures that are 224x224 already. Of
      pictures longer than 32 times their width only the middle is resized: nothing outside it can reach the crop.
    * All others (CIFAR-10, S = 32): the centre square is cropped, then every pixel of the result is the exact mean of
      the area it covers, rounded half up; a 32x32 picture comes back unchanged. Squares smaller than S are enlarged
      with Pillow's bilinear filter, as averaging would leave blocks.

    Raises :class:`~fracbnn_pynq.errors.PictureError` when ``picture`` has another form.
    """
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        found = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise PictureError(f"expected a picture as a uint8 array [H, W, 3], found {found}: see read_picture")
    _check_size("array", picture.shape[1], picture.shape[0])
    size = network.image_size
    if network.name in SHORTER_SIDE:
        return shorter_side_crop(picture, SHORTER_SIDE[network.name], size)
    edge = min(picture.shape[:2])
    square = centre(picture, edge, edge)
    if edge < size:
        return resize(square, size, size, size)
    return square.copy() if edge == size else area_mean(square, size)


def load(
    source: Picture,
    network: Network,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    bgr: bool = False,
    before_decoding: Callable[[Image.Image], None] | None = None,
) -> Pixels:
    """Read a picture and bring it to the size of ``network``: a new uint8 [S, S, 3].

    See :func:`read_picture` and :func:`prepare`.
    """
    return prepare(read_picture(source, max_pixels=max_pixels, bgr=bgr, before_decoding=before_decoding), network)


# --- reading -----------------------------------------------------------------------------------------------------


_Before: TypeAlias = Callable[[Image.Image], None] | None


def _from_path(source: str | os.PathLike[str], max_pixels: int, before: _Before) -> Pixels:
    name = os.fsdecode(source)
    with _naming(name):
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise PictureError(f"{name}: expected a picture file, found a folder: name the files in it")
        if not stat.S_ISREG(mode):
            raise PictureError(f"{name}: expected a regular file: pass pipes and devices as an open binary file")
        with open(name, "rb") as stream:
            return _from_stream(stream, name, max_pixels, before)


def _from_file_object(source: BinaryIO, max_pixels: int, before: _Before) -> Pixels:
    label = getattr(source, "name", None)
    name = f"file object {label!r}" if isinstance(label, str) else "file object"
    with _naming(name):
        data = source.read(MAX_STREAM_SIZE + 1)
    if len(data) > MAX_STREAM_SIZE:
        raise PictureError(f"{name}: expected a picture of at most {MAX_STREAM_SIZE} bytes, found more")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise PictureError(f"{name}: expected it to give bytes, found {type(data).__name__}: open it in binary mode")
    return _from_stream(io.BytesIO(data), name, max_pixels, before)


def _from_stream(stream: BinaryIO, name: str, max_pixels: int, before: _Before) -> Pixels:
    """Decode an encoded picture from a seekable stream that stands at its beginning."""
    with _naming(name), _pillow_warnings_ignored():
        start = stream.read(32)
        if not start:
            raise PictureError(f"{name}: expected a picture, found nothing: it is empty or was read to its end before")
        stream.seek(0)
        enable_heif(start, name)
        check_icons(stream, partial(_check_size, name, max_pixels=max_pixels))
        try:
            image = Image.open(for_decoder(stream))
        except UnidentifiedImageError:
            raise PictureError(
                f"{name}: expected a picture in a format that Pillow {PIL.__version__} knows, found other data, "
                f"beginning with {start[:8]!r}"
            ) from None
        with image:
            return _from_image(image, name, max_pixels, before)


def _from_image(image: Image.Image, name: str, max_pixels: int, before: _Before) -> Pixels:
    with _pillow_warnings_ignored():
        _check_size(name, *image.size, max_pixels)
        check_container(image, name, partial(_check_size, name, max_pixels=max_pixels))
        if before is not None:
            before(image)
        bits = grey_bits(image)
        image.load()
        _check_size(name, *image.size, max_pixels)  # an icon's directory need not tell the size of the picture in it
        return _upright(_rgb(image, name, bits), _orientation(image))


def _rgb(image: Image.Image, name: str, bits: int = 8) -> Pixels:
    """The pixels of a decoded image of any mode: uint8 [H, W, 3]. ``bits`` a grey value had in the file."""
    key = image.info.get("transparency")
    if bits < 8 and isinstance(key, int):  # the key is as in the file, the pixels have been scaled to 8 bits
        grey = np.repeat(np.asarray(image)[..., None], 3, axis=2)
        return np.where(grey == key * 255 // ((1 << bits) - 1), np.uint8(255), grey)
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image)
        if image.mode == "I":
            if grey.min() < 0 or grey.max() > 65535:
                raise PictureError(
                    f"{name}: expected 32-bit grey values in 0..65535, found {grey.min()}..{grey.max()}: scale them"
                )
            grey = grey.astype(np.uint16)
        if white_is_zero(image):
            grey = np.uint16(65535) - grey.astype(np.uint16)
        rgb = _from_array(grey, name)
        return rgb if key is None else np.where((grey == key)[..., None], np.uint8(255), rgb)
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode == "La":
        image = image.convert("LA")
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if key is not None or image.mode in ("LA", "PA", "RGBA", "RGBa") or palette.endswith("A"):
        return _on_white(np.asarray(image if image.mode == "RGBA" else image.convert("RGBA")))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_lab(image: Image.Image) -> Pixels:
    """CIE L*a*b* as sRGB; Pillow's own ``convert`` does this only in newer versions."""
    from PIL import ImageCms  # noqa: PLC0415 - an optional part of Pillow

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow turns TIFF pictures itself while decoding
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data makes Pillow raise anything, but does not spoil the pixels
        return 1
    return value if isinstance(value, int) else 1


def _upright(rgb: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (Exif 2.32, tag 274): 5..8 have rows and columns swapped."""
    if orientation not in range(2, 9):
        return rgb
    if orientation >= 5:
        rgb = rgb.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)


def _from_array(array: npt.NDArray[Any], name: str, *, bgr: bool = False) -> Pixels:
    """An array of any accepted shape and dtype as uint8 [H, W, 3]."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PictureError(f"{name}: expected one picture as {_ARRAY_FORMS}, found shape {list(array.shape)}")
    _check_size(name, array.shape[1], array.shape[0])
    values = _eight_bits(array, name)
    if values.ndim == 2 or values.shape[2] == 1:
        return np.repeat(values.reshape(*values.shape[:2], 1), 3, axis=2)
    if bgr:
        swapped = values.copy()
        swapped[..., 0], swapped[..., 2] = values[..., 2], values[..., 0]
        values = swapped
    return _on_white(values) if values.shape[2] == 4 else np.ascontiguousarray(values)


def _eight_bits(array: npt.NDArray[Any], name: str) -> Pixels:
    if array.dtype == np.uint8:
        return np.asarray(array)
    if array.dtype == np.bool_:
        return (array.astype(np.uint8) * 255).astype(np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise PictureError(f"{name}: expected float values in 0..1, found {low:g}..{high:g}: divide by the maximum")
        values = np.empty(array.shape, np.uint8)
        rows = max(1, _AT_ONCE // array.shape[1])
        for top in range(0, len(array), rows):
            values[top : top + rows] = np.rint(array[top : top + rows].astype(np.float64) * 255)
        return values
    raise PictureError(f"{name}: expected values of bool, uint8, uint16 or float in 0..1, found {array.dtype}")


def _on_white(rgba: Pixels) -> Pixels:
    """uint8 [H, W, 4] over white: round((c a + 255 (255 - a)) / 255), exact, uint8 [H, W, 3]."""
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = max(1, _AT_ONCE // rgba.shape[1])
    for top in range(0, len(rgba), rows):  # the sums are of 16 bits: for a whole large picture they are much memory
        part = rgba[top : top + rows]
        alpha = part[..., 3:].astype(np.uint16)
        sums: npt.NDArray[np.uint16] = part[..., :3] * alpha
        sums += 255 * (255 - alpha) + 127
        sums //= 255
        rgb[top : top + rows] = sums
    return rgb


def _check_size(name: str, width: int, height: int, max_pixels: int | None = None) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"{name}: expected at least one pixel, found {width}x{height}")
    if max_pixels is not None and width * height > max_pixels:
        raise PictureError(
            f"{name}: expected at most {max_pixels} pixels, found {width}x{height}: make it smaller or raise max_pixels"
        )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a PictureError that names the source."""
    try:
        yield
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{name!r}: expected a picture file, found no file of this name") from None
    except Exception as error:
        raise PictureError(f"{name}: cannot be read as a picture: {error or type(error).__name__}") from error


@contextmanager
def _pillow_warnings_ignored() -> Iterator[None]:
    """Ignore the warnings of Pillow's modules, e.g. about damaged metadata.

    ``warnings.catch_warnings`` swaps the list of all filters, which goes wrong when threads overlap. One entry put in
    and taken out of that list again disturbs nobody.
    """
    filters = cast("list[object]", warnings.filters)
    filters.insert(0, _IGNORE_PILLOW)
    try:
        yield
    finally:
        if _IGNORE_PILLOW in filters:
            filters.remove(_IGNORE_PILLOW)
