"""The compiler: models to memory images and back, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fracbnn_pynq import faithful, models
from fracbnn_pynq.engine import Program, assemble, compile_model, decompile, explain
from fracbnn_pynq.engine import descriptors as d
from fracbnn_pynq.engine.explain import explain_layer
from fracbnn_pynq.engine.image import check_image, checksum, parse_descriptors
from fracbnn_pynq.engine.lane import lane_table
from fracbnn_pynq.engine.words import WORD_BYTES, corrections, parse_pass, pass_words
from fracbnn_pynq.errors import ModelError
from fracbnn_pynq.model import Model, random_model, unpack_weight
from fracbnn_pynq.networks import CIFAR10, IMAGENET, GatedLayer, Network, Stem


@cache
def compiled(name: str, pixels: int, seed: int = 0) -> tuple[Model, np.ndarray]:
    model = random_model({"cifar10": CIFAR10, "imagenet": IMAGENET}[name], seed)
    return model, compile_model(model, pixels=pixels)


@pytest.mark.parametrize("pixels", [1, 2, 4])
@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_decompiling_gives_back_weights_and_tables(name: str, pixels: int) -> None:
    model, image = compiled(name, pixels)
    back = decompile(image)
    fused = faithful.fuse(model)
    assert (back.network, back.pixels) == (model.network, pixels)
    assert np.array_equal(back.weights["stem"], model.stem_weight)
    for layer in model.network.layers:
        assert np.array_equal(back.weights[layer.name], model.layers[layer.name].weight)
        expected, found = fused.layers[layer.name], back.tables[layer.name]
        for field in ("alpha", "gamma", "beta", "shift"):
            assert np.array_equal(getattr(expected, field), getattr(found, field)), (layer.name, field)
        assert expected.codes == found.codes
        # Thresholds of even sums: the even number at or above, unless no sum reaches it.
        reach = 3 * layer.in_channels * layer.kernel**2
        for field in ("gate_at", "knee"):
            even = -(-getattr(expected, field) // 2) * 2
            assert np.array_equal(
                np.clip(even, -reach - 2, reach + 2), np.clip(getattr(found, field), -reach - 2, reach + 2)
            )
    assert np.array_equal(assemble(back), image)


def test_the_bundled_model_survives() -> None:
    model = models.find_model("cifar10")
    image = compile_model(model, pixels=2)
    assert np.array_equal(assemble(decompile(image)), image)
    assert check_image(image)["resident"] == 1


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_any_changed_bit_is_found(at: int, bit: int) -> None:
    _, image = compiled("cifar10", 2)
    damaged = image.copy()
    damaged[at % image.size] ^= 1 << bit
    with pytest.raises(ModelError):
        decompile(damaged)


@settings(max_examples=20, deadline=None)
@given(word=st.integers(0, d.HEADER_WORDS - 1), value=st.integers(0, 2**32 - 1) | st.integers(0, 2000))
@example(word=3, value=0)
@example(word=3, value=1149)
@example(word=13, value=2)
def test_a_changed_header_is_found_even_with_its_checksum(word: int, value: int) -> None:
    _, image = compiled("cifar10", 2)
    changed = image.copy()
    changed[:64].view("<u4")[word] = value
    name = d.HEADER[word][0]
    if name != "checksum":
        changed[:64].view("<u4")[8] = checksum(changed)
    if np.array_equal(changed, image):
        return
    with pytest.raises(ModelError):
        decompile(changed)


def test_damage_says_what_to_do() -> None:
    _, image = compiled("cifar10", 2)
    damaged = image.copy()
    damaged[5000] ^= 1
    with pytest.raises(ModelError, match="checksum does not match: it is damaged; compile it again"):
        check_image(damaged)
    with pytest.raises(ModelError, match=f"expected {image.size} bytes, found {image.size - 1}"):
        check_image(image[:-1])
    with pytest.raises(ModelError, match=r"uint8 \[bytes\], found uint8 \[3\]"):
        check_image(image[:3])


def test_an_image_holds_no_address() -> None:
    """Nothing in it depends on where it lies: its header has offsets from its start, its descriptors bank addresses."""
    _, image = compiled("imagenet", 2)
    header = check_image(image)
    assert header["ring_offset"] == 64 * (1 + header["descriptors"])
    assert header["total_bytes"] == header["ring_offset"] + header["ring_words"] * WORD_BYTES == image.size


@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.sampled_from([1, 3]),
    slices=st.sampled_from([1, 2, 3, 4, 6, 8, 16]),
)
@settings(max_examples=30, deadline=None)
def test_a_pass_survives_packing(seed: int, kernel: int, slices: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (2 * rng.integers(0, 2, (16, kernel, kernel, 16 * slices)) - 1).astype(np.int8)
    shift = rng.integers(1, 25, 16)
    fused = faithful.FusedLayer(
        gate_at=rng.integers(-9216, 9217, 16),
        knee=rng.integers(-27648, 27649, 16),
        alpha=rng.integers(-32767, 32768, (2, 16)),
        gamma=rng.integers(-32767, 32768, 16),
        beta=rng.integers(-(2**31) + 1, 2**31, (2, 16)),
        shift=shift,
        codes=False,
    )
    table = lane_table(fused)
    words = pass_words(weight, table)
    again, back = parse_pass(words, kernel, 16 * slices)
    assert np.array_equal(again, weight)
    for field in ("gate_at", "knee", "alpha", "gamma", "beta", "shift"):
        assert np.array_equal(getattr(back, field), getattr(table, field))


def test_corrections_are_half_of_the_sum_without_disagreement() -> None:
    """Against the definition: with zeros outside the map, M/2 is the correction less the disagreeing bits."""
    rng = np.random.default_rng(5)
    weight = (2 * rng.integers(0, 2, (16, 3, 3, 16)) - 1).astype(np.int8)
    bits = rng.integers(0, 2, (3, 3, 16))
    for row in range(3):
        for column in range(3):
            valid = np.ones((3, 3), bool)
            if row != 1:
                valid[row] = False
            if column != 1:
                valid[:, column] = False
            inside = np.where(valid[..., None], bits, 0)
            exact = (np.where(valid[..., None], 2 * bits - 1, 0) * weight).sum(axis=(1, 2, 3))
            differing = (inside != (weight > 0)).sum(axis=(1, 2, 3))
            assert np.array_equal(2 * (corrections(weight)[row, column] - differing), exact)


def test_strips_repeat_their_layers_words() -> None:
    model, image = compiled("imagenet", 2)
    steps = parse_descriptors(image)
    assert [step.layer for step in steps].count(0) == 14
    assert sum(step.layer == 2 for step in steps) == sum(step.layer == 3 for step in steps) == 2
    assert unpack_weight(model.stem_weight).shape == (32, 3, 3, 96)


def small(**changes: object) -> Network:
    layers = (GatedLayer("a", 32, 32, 16), GatedLayer("b", 32, 64, 16, kernel=1))
    fields = {"name": "x", "title": "x", "stem": Stem(32, 32, 2), "layers": layers, "classes": 2, "shortcut_bits": 4}
    return Network(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (small(stem=Stem(24, 32, 2)), "expected multiples of 16"),
        (small(layers=(GatedLayer("b", 32, 64, 16, kernel=1),)), "3x3 and 1x1 layers in turn"),
        (small(shortcut_bits=None), "expected 3x3 layers only"),
        (small(stem=Stem(32, 36, 2), layers=(GatedLayer("a", 32, 32, 18),)), "multiple of 4 pixels a row, found 18"),
        (
            small(stem=Stem(96, 32, 2), layers=(GatedLayer("a", 96, 96, 16),)),
            "expected 32, 64 or a multiple of 128 input channels, found 96",
        ),
        (replace(CIFAR10, stem=Stem(64, 64, 1), layers=(GatedLayer("a", 64, 64, 64),)), "memory B of the engine"),
        (replace(IMAGENET, layers=IMAGENET.layers[:3]), "does not fit the engine's memory A"),
    ],
)
def test_what_the_engine_cannot_run_is_refused(network: Network, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        compile_model(random_model(network), pixels=2)


def test_other_numbers_of_pixels_are_refused() -> None:
    with pytest.raises(ModelError, match="expected one of 1, 2, 4, found 3"):
        compile_model(random_model(CIFAR10), pixels=3)


def test_coefficients_outside_the_arithmetic_are_refused() -> None:
    model = random_model(CIFAR10)
    fused = faithful.fuse(model)
    stem = replace(fused.stem, shift=fused.stem.shift + 30)
    tables = {"stem": stem, **fused.layers}
    weights = {"stem": model.stem_weight, **{name: layer.weight for name, layer in model.layers.items()}}
    with pytest.raises(ModelError, match="expected shifts of 1 to 24"):
        assemble(Program(CIFAR10, 2, weights, tables))
    wide = replace(fused.stem, alpha=fused.stem.alpha * 0 + 2**26)
    with pytest.raises(ModelError, match="alpha: expected 27 bits"):
        assemble(Program(CIFAR10, 2, weights, {"stem": wide, **fused.layers}))


def test_explain_accounts_for_everything() -> None:
    _, image = compiled("imagenet", 4)
    found = explain(image)
    assert sum(line.share for line in found.lines) == pytest.approx(1)
    assert found.cycles == sum(line.cycles for line in found.lines)
    assert sum(line.ring_bytes for line in found.lines) == check_image(image)["ring_words"] * WORD_BYTES
    assert found.bytes_read == 224 * 224 * 3 + check_image(image)["ring_words"] * WORD_BYTES
    text = found.text()
    assert len(text.splitlines()) == len(found.lines) + 2
    assert "block13.conv1x1" in text
    assert f"{found.cycles} cycles" in text
    assert found.data()["layers"][0]["layer"] == "stem"


@pytest.mark.parametrize(("name", "pixels"), [("cifar10", 2), ("imagenet", 4)])
def test_every_layer_is_explained_in_full(name: str, pixels: int) -> None:
    _, image = compiled(name, pixels)
    lines, words = explain(image).lines, image.view("<u4")
    layers = list(dict.fromkeys(line.layer for line in lines))
    texts = [text for layer in layers for text in explain_layer(image, layer).split("\n\n")]
    assert len(texts) == len(lines)
    found = set()
    for text in texts:
        ((number, at),) = re.findall(r"descriptor (\d+), at byte 0x([0-9a-f]+) of the image", text)
        found.add(int(number))
        line = lines[int(number)]
        assert text.startswith(f"{line.layer}: {line.kind}, ")
        written = {int(number): int(word, 16) for number, word in re.findall(r"  word +(\d+)  ([0-9a-f]{8})  ", text)}
        start = int(at, 16) // 4
        assert [written.get(number, 0) for number in range(16)] == words[start : start + 16].tolist()
        parts = re.findall(r"cycles +(\d+) \+ (\d+) \+ (\d+) waiting for weights = (\d+)", text)
        assert sum(map(int, parts[0][:3])) == int(parts[0][3]) == line.cycles
        for sum_of in re.findall(r"^steps +(\d+) passes x (\d+) rows x (\d+) groups x (\d+) = (\d+)$", text, re.M):
            *factors, product = map(int, sum_of)
            assert np.prod(factors) == product == int(parts[0][0])
        assert f"{line.ring_bytes} bytes" in text
    assert found == set(range(len(lines)))


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match=r"layer: expected one of stem, .*, found 'layer9'"):
        explain_layer(compiled("cifar10", 2)[1], "layer9")


@pytest.mark.parametrize(
    ("name", "pixels", "limit"),
    [("cifar10", 2, 11_800), ("cifar10", 4, 6_100), ("imagenet", 2, 1_170_000), ("imagenet", 4, 690_000)],
)
def test_cycle_targets_in_the_model(name: str, pixels: int, limit: int) -> None:
    _, image = compiled(name, pixels)
    assert explain(image).cycles <= limit
