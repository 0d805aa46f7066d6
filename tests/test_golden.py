"""The authors' own results, bit for bit: ``python -m pytest tests/test_golden.py``."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fracbnn_pynq import native
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.importers.archives import import_archive
from fracbnn_pynq.model import Model
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.pictures import load
from fracbnn_pynq.thermometer import levels, planes

needs_kernels = pytest.mark.skipif(not native.available(), reason="native kernels were not built")


def engines() -> list[str]:
    return ["reference", *list(native.engines())]


def make(model: Model, arithmetic: str, engine: str) -> CpuBackend | ReferenceBackend:
    return (
        ReferenceBackend(model, arithmetic) if engine == "reference" else CpuBackend(model, arithmetic, engine=engine)
    )


@pytest.fixture(scope="module")
def cifar10_golden(shared: Path) -> dict[str, np.ndarray]:
    """Pictures and the two C models' logits: 64 JPEG pictures, then 1017 originals."""
    jpeg = np.load(shared / "golden" / "cifar10_csim_64.npz")
    originals = np.load(shared / "data" / "cifar10_lossless_1017.npz")
    prebuilt = np.load(shared / "golden" / "cifar10_prebuilt_csim.npz")
    return {
        "images": np.concatenate([jpeg["images"], originals["images"]]),
        "labels": originals["labels"],
        "cifar10-2021": np.concatenate([jpeg["csim_logits"], originals["csim_logits"]]),
        "cifar10-2020": np.concatenate([prebuilt["csim_logits"], prebuilt["lossless_csim_logits"]]),
        "float": originals["float_logits"],
    }


@pytest.fixture(scope="module")
def photos(shared: Path) -> dict[str, np.ndarray]:
    data = np.load(shared / "data" / "imagenet_photos_125.npz")
    jpeg, offsets = data["jpeg"].tobytes(), data["offsets"]
    images = [load(jpeg[a:b], IMAGENET) for a, b in itertools.pairwise(offsets)]
    return {**{name: data[name] for name in data.files if name != "jpeg"}, "images": np.stack(images)}


@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("arithmetic", ["cifar10-2021", "cifar10-2020"])
def test_cifar10_logits_are_the_c_models(
    cifar10_authors: Model, cifar10_golden: dict[str, np.ndarray], arithmetic: str, engine: str
) -> None:
    count = 64 + 256 if engine == "portable" else None  # table look-up popcounts are slow; the rest shows no more
    logits = make(cifar10_authors, arithmetic, engine).logits(cifar10_golden["images"][:count])
    assert np.array_equal(logits, cifar10_golden[arithmetic][:count])


@needs_kernels
@pytest.mark.parametrize("form", ["float", "packed"])
def test_release_weights_in_both_forms(
    shared: Path, cifar10_golden: dict[str, np.ndarray], form: str, tmp_path: Path
) -> None:
    source = shared / "golden" / "cifar10_upstream_weights.npz"
    if form == "packed":
        with np.load(source) as archive:
            convolutions = {name for name in archive.files if "conv" in name and name.endswith(".weight")}
            kept = {name: archive[name] for name in archive.files if name not in convolutions}
        source = tmp_path / "packed.npz"
        np.savez(source, **kept)
    model = import_archive(source, CIFAR10, {}, None)
    logits = CpuBackend(model, "cifar10-2021").logits(cifar10_golden["images"])
    assert np.array_equal(logits, cifar10_golden["cifar10-2021"])


@needs_kernels
def test_cifar10_accuracy_on_1017_originals(cifar10_authors: Model, cifar10_golden: dict[str, np.ndarray]) -> None:
    images, labels = cifar10_golden["images"][64:], cifar10_golden["labels"]

    def correct(backend: CpuBackend | ReferenceBackend) -> int:
        return int((backend.logits(images).argmax(axis=1) == labels).sum())

    assert correct(CpuBackend(cifar10_authors, "cifar10-2021")) == 893  # 87.81 %
    assert correct(CpuBackend(cifar10_authors, "cifar10-2020")) == 907  # 89.18 %
    floats = correct(ReferenceBackend(cifar10_authors, "float"))
    assert abs(floats / 1017 - 0.8859) <= 0.002
    assert abs(correct(CpuBackend(cifar10_authors)) - floats) <= 0.01 * 1017


@needs_kernels
@pytest.mark.parametrize("engine", list(native.engines()))
def test_imagenet_result_maps_are_the_c_models(shared: Path, imagenet_authors: Model, engine: str) -> None:
    golden = np.load(shared / "golden" / "imagenet_csim_4.npz")
    backend = CpuBackend(imagenet_authors, "imagenet-2021", engine=engine)
    count = 1 if engine == "portable" else 4
    assert np.array_equal(backend.result_map_from_levels(levels(golden["images"][:count])), golden["result_q4"][:count])
    order = np.argsort(-backend.logits(golden["images"][:count]), axis=1, kind="stable")[:, :5]
    assert np.array_equal(order, golden["top5"][:count])


def test_imagenet_reference_with_and_without_the_overlap(shared: Path, imagenet_authors: Model) -> None:
    golden = np.load(shared / "golden" / "imagenet_csim_4.npz")
    inputs = planes(golden["images"][:2])
    backend = ReferenceBackend(imagenet_authors, "imagenet-2021")
    assert np.array_equal(backend.result_map_from_planes(inputs), golden["result_q4"][:2])
    backend._rules._a = replace(backend._rules._a, overlap=False)
    assert np.array_equal(backend.result_map_from_planes(inputs), golden["result_q4_no_overlap"][:2])


@needs_kernels
def test_imagenet_sample_image(imagenet_release: Mapping[str, np.ndarray], imagenet_authors: Model) -> None:
    """The picture that comes with the authors' deployment files, given as thermometer words."""
    words = imagenet_release["sample.image_thermo"]
    lit = ((words[..., None] >> np.arange(32, dtype=np.uint32)) & 1).sum(axis=-1).astype(np.uint8)
    backend = CpuBackend(imagenet_authors, "imagenet-2021")
    batch = lit.transpose(1, 2, 0)[None]
    assert np.array_equal(backend.result_map_from_levels(batch)[0], imagenet_release["sample.result_q4"])
    best = np.argsort(-backend.logits_from_levels(batch)[0], kind="stable")[:5]
    assert np.array_equal(best, imagenet_release["sample.top5"])


@needs_kernels
def test_imagenet_on_125_photographs(imagenet_authors: Model, photos: dict[str, np.ndarray]) -> None:
    published = CpuBackend(imagenet_authors, "imagenet-2021")
    maps = published.result_map_from_levels(levels(photos["images"]))
    assert [hashlib.sha1(m.tobytes()).hexdigest() for m in maps] == photos["published_q4_sha1"].tolist()
    order = np.argsort(-published.logits(photos["images"]), axis=1, kind="stable")[:, :5]
    assert np.array_equal(order, photos["published_top5"])

    best = CpuBackend(imagenet_authors).logits(photos["images"]).argmax(axis=1)
    truth, floats = photos["class_index"], photos["float_top5"][:, 0]
    assert abs((best == truth).mean() - (floats == truth).mean()) <= 0.02
    assert (best == floats).mean() >= 0.85


@needs_kernels
def test_calibrated_parameters_on_125_photographs(imagenet_calibrated: Model, photos: dict[str, np.ndarray]) -> None:
    """What the published bitstream gives with the bundled parameters: 44.0 % and 51 % with its authors'."""
    best = CpuBackend(imagenet_calibrated, "imagenet-2021").logits(photos["images"]).argmax(axis=1)
    assert (best == photos["class_index"]).mean() >= 0.75
    assert (best == photos["float_top5"][:, 0]).mean() >= 0.82
