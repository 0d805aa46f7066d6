"""A model as the memory image the engine loads, and back.

A memory image is one relocatable block: a header of 64 bytes (:data:`.descriptors.HEADER`), the layer descriptors of 64
bytes each, and the ring words of 288 bytes each, in the order in which the engine uses them. All numbers are
little-endian. It holds no address, so that it may lie anywhere (at a multiple of 16 bytes).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .. import faithful
from ..errors import ModelError
from ..model import Model, pack_weight, unpack_weight
from ..networks import CIFAR10, IMAGENET, Network
from . import descriptors as d
from .cycles import RING_WORDS
from .lane import LaneTable, fused_layer, lane_table
from .plan import Memories, descriptors
from .registers import BEAT_BYTES, CHANNELS_IN, CHANNELS_OUT, PIXELS
from .words import HEADER_WORDS, WORD_BYTES, Signs, parse_pass, pass_words

NETWORK_NUMBERS = {CIFAR10.name: 1, IMAGENET.name: 2}
_BY_NUMBER = {1: CIFAR10, 2: IMAGENET}

CHECKSUM_WORD = [name for name, _ in d.HEADER].index("checksum")

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Program:
    """What a memory image holds: a network's weights and fused integer tables, for an engine of X = ``pixels``.

    ``weights``: packed bits by layer name, "stem" included, as in a model file; ``tables``: the layers' fused tables
    with their thresholds as even numbers. The classifier is not part of it: it runs on the host, from the model.
    """

    network: Network
    pixels: int
    weights: Mapping[str, npt.NDArray[np.uint8]]
    tables: Mapping[str, faithful.FusedLayer]


def program(model: Model, *, pixels: int) -> Program:
    """What the engine needs of ``model``, from its ``faithful`` tables."""
    fused = faithful.fuse(model)
    return Program(
        network=model.network,
        pixels=pixels,
        weights={"stem": model.stem_weight, **{name: layer.weight for name, layer in model.layers.items()}},
        tables={"stem": fused.stem, **fused.layers},
    )


def compile_model(model: Model, *, pixels: int) -> Image:
    """The memory image of ``model`` for an engine that computes ``pixels`` (1, 2 or 4) at once: uint8 [bytes].

    Raises :class:`~fracbnn_pynq.errors.ModelError` where the engine cannot run the model.
    """
    return assemble(program(model, pixels=pixels))


def assemble(given: Program) -> Image:
    """The memory image of a program; the inverse of :func:`decompile`."""
    steps = descriptors(given.network, given.pixels)
    if len(steps) > d.MAX_DESCRIPTORS:
        raise ModelError(f"expected at most {d.MAX_DESCRIPTORS} descriptors, found {len(steps)}")
    names = _layer_names(given.network)
    packed = {}
    for number, name in enumerate(names):
        packed[number] = _layer_words(unpack_weight(given.weights[name]), given.tables[name], stem=number == 0)
    ring = np.concatenate([packed[step.layer] for step in steps])
    words = np.zeros((len(steps) + 1, d.WORDS), "<u4")
    words[1:] = [step.pack() for step in steps]
    size = given.network.image_size
    header = {
        "magic": d.IMAGE_MAGIC,
        "version": d.IMAGE_VERSION,
        "parameters": parameters_word(given.pixels),
        "descriptors": len(steps),
        "ring_words": len(ring),
        "resident": int(len(ring) <= RING_WORDS),
        "ring_offset": words.nbytes,
        "total_bytes": words.nbytes + ring.nbytes,
        "picture_size": size,
        "picture_beats": size * size * 3 // BEAT_BYTES,
        "picture_row_step": Memories(given.pixels).i_row_step(size),
        "features": given.network.features,
        "network": NETWORK_NUMBERS.get(given.network.name, 0),
    }
    words[0] = [header.get(name, 0) for name, _ in d.HEADER]
    image = np.concatenate([words.view(np.uint8).reshape(-1), ring.reshape(-1)])
    image[: 4 * d.HEADER_WORDS].view("<u4")[CHECKSUM_WORD] = checksum(image)
    return image


def decompile(image: Image) -> Program:
    """The program in a memory image.

    Raises :class:`~fracbnn_pynq.errors.ModelError` where the image is damaged, of another version or no image at all.
    """
    header = check_image(image)
    network, pixels = network_of(header), header["parameters"] >> 16 & 0xFF
    steps = parse_descriptors(image)
    ring = image[header["ring_offset"] :].reshape(-1, WORD_BYTES)
    codes = network.shortcut_bits is not None
    layers = dict(enumerate(_layer_names(network)))
    kernels = {0: network.stem.kernel, **{i: layer.kernel for i, layer in enumerate(network.layers, 1)}}
    inputs = {0: network.stem.in_channels, **{i: layer.in_channels for i, layer in enumerate(network.layers, 1)}}
    weights: dict[str, npt.NDArray[np.uint8]] = {}
    tables: dict[str, faithful.FusedLayer] = {}
    if {step.layer for step in steps} != set(layers):
        raise ModelError(f"memory image: expected the layers 0 to {len(layers) - 1} of {network.title}, found others")
    if sum(step.passes * (HEADER_WORDS + step.slices) for step in steps) != len(ring):
        raise ModelError(f"memory image: expected the ring words of its descriptors, found {len(ring)} words")
    at = 0
    for step in steps:
        parts = []
        for _ in range(step.passes):
            words = ring[at : at + HEADER_WORDS + step.slices]
            at += len(words)
            parts.append(parse_pass(words, kernels[step.layer], inputs[step.layer]))
        name = layers[step.layer]
        weight = np.concatenate([part for part, _ in parts])
        weights[name] = pack_weight(np.moveaxis(weight, -1, 1))
        output_codes = codes and step.layer != len(network.layers)
        tables[name] = fused_layer(_joined([table for _, table in parts]), codes=output_codes)
    result = Program(network, pixels, weights, tables)
    if not np.array_equal(assemble(result), image):
        raise ModelError("memory image: expected what the compiler makes of its contents, found other descriptors")
    return result


def network_of(header: Mapping[str, int]) -> Network:
    """The network that a checked header names."""
    number = header["network"]
    if number not in _BY_NUMBER:
        raise ModelError(f"memory image: expected network {sorted(_BY_NUMBER)}, found {number}")
    return _BY_NUMBER[number]


def check_image(image: Image) -> dict[str, int]:
    """The header of a memory image, after checking its length, version and checksum."""
    if image.dtype != np.uint8 or image.ndim != 1 or image.nbytes < d.HEADER_WORDS * 4:
        raise ModelError(f"memory image: expected uint8 [bytes], found {image.dtype} {list(image.shape)}")
    found = _header(image)
    if found["magic"] != d.IMAGE_MAGIC or found["version"] != d.IMAGE_VERSION:
        raise ModelError(
            f"memory image: expected {d.IMAGE_MAGIC:#x} version {d.IMAGE_VERSION}, "
            f"found {found['magic']:#x} version {found['version']}"
        )
    ring = found["ring_offset"] + found["ring_words"] * WORD_BYTES
    if not found["total_bytes"] == image.nbytes == ring:
        raise ModelError(f"memory image: expected {ring} bytes, found {image.nbytes}")
    count = found["descriptors"]
    if not 1 <= count <= d.MAX_DESCRIPTORS or found["ring_offset"] != 4 * d.WORDS * (1 + count):
        raise ModelError(
            f"memory image: expected 1 to {d.MAX_DESCRIPTORS} descriptors and the ring words after them, "
            f"found {count} and the ring words at {found['ring_offset']}"
        )
    if found["checksum"] != checksum(image):
        raise ModelError("memory image: the checksum does not match: it is damaged; compile it again")
    if found["parameters"] not in [parameters_word(pixels) for pixels in PIXELS]:
        raise ModelError(f"memory image: expected the parameters of an engine, found {found['parameters']:#x}")
    return found


def parse_descriptors(image: Image) -> list[d.Descriptor]:
    """The layer descriptors of a checked image."""
    count = _header(image)["descriptors"]
    words = image[64 : 64 * (count + 1)].view("<u4").reshape(count, d.WORDS)
    return [d.unpack(row) for row in words]


def checksum(image: Image) -> int:
    """CRC-32 of the image with the checksum's own word as zero; 1 where that would be 0."""
    at = 4 * CHECKSUM_WORD
    crc = zlib.crc32(image[:at].tobytes())
    crc = zlib.crc32(bytes(4), crc)
    return zlib.crc32(image[at + 4 :].tobytes(), crc) or 1


def parameters_word(pixels: int) -> int:
    """What the register PARAMETERS of an engine of X = ``pixels`` reads."""
    return CHANNELS_OUT | CHANNELS_IN << 8 | pixels << 16


def _header(image: Image) -> dict[str, int]:
    """The header's words by name."""
    words = image[: 4 * d.HEADER_WORDS].view("<u4")
    return {name: int(word) for (name, _), word in zip(d.HEADER, words, strict=True)}


def _layer_names(network: Network) -> list[str]:
    return ["stem", *(layer.name for layer in network.layers)]


def _layer_words(weight: Signs, table: faithful.FusedLayer, *, stem: bool) -> npt.NDArray[np.uint8]:
    whole = lane_table(table, stem=stem)
    count = len(weight)
    return np.concatenate(
        [
            pass_words(weight[at : at + CHANNELS_OUT], _part(whole, slice(at, at + CHANNELS_OUT)))
            for at in range(0, count, CHANNELS_OUT)
        ]
    )


def _part(table: LaneTable, channels: slice) -> LaneTable:
    return replace(
        table,
        gate_at=table.gate_at[channels],
        knee=table.knee[channels],
        alpha=table.alpha[:, channels],
        gamma=table.gamma[channels],
        beta=table.beta[:, channels],
        shift=table.shift[channels],
    )


def _joined(parts: list[LaneTable]) -> LaneTable:
    names = ("gate_at", "knee", "alpha", "gamma", "beta", "shift")
    return LaneTable(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))
