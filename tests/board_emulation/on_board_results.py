"""Every golden picture through pynq's own EmbeddedDevice, bit for bit, and what it costs in memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest


def test_golden_pictures(load, golden):
    with load() as classifier:
        from pynq.pl_server.embedded_device import EmbeddedDevice

        accelerator = classifier.engine.accelerator
        assert type(accelerator._overlay.device) is EmbeddedDevice
        assert accelerator.clock_mhz == pytest.approx(250, rel=1e-3)
        assert np.array_equal(classifier.logits(golden["images"]), golden["logits"])
        classifier.engine.reload()
        assert np.array_equal(classifier.logits(golden["images"][:8]), golden["logits"][:8])


def test_lossless_golden_pictures(load, shared):
    with np.load(shared / "data" / "cifar10_lossless_1017.npz") as data:
        images = data["images"]
    with np.load(shared / "golden" / "cifar10_prebuilt_csim.npz") as data:
        expected = data["lossless_csim_logits"]
    assert len(images) == 1017
    assert np.array_equal(load().logits(images), expected)


def test_golden_photographs(load, photos):
    classifier = load("imagenet-authors")
    accelerator = classifier.engine.accelerator
    assert np.array_equal(accelerator.result_codes(photos["images"]), photos["result_q4"])
    assert np.array_equal(np.argsort(-classifier.logits(photos["images"][:1]), axis=1)[:, :5], photos["top5"][:1])


def test_a_photograph_moves_its_code_and_its_result_only(load, photos, xrt):
    """pynq 4 alone would move the 13 MB of scratch memory twice."""
    accelerator = load("imagenet-authors").engine.accelerator
    before = xrt.emulated_synced()
    accelerator.result_codes(photos["images"][:2])
    code, result = 602_112, 448 * 64
    page = 4096
    moved = xrt.emulated_synced() - before
    assert 2 * (code + 2 * result) <= moved <= 2 * (code + 2 * result + page)


@pytest.mark.parametrize("model", ["cifar10-authors", "imagenet-authors"])
def test_closing_gives_all_memory_back(load, xrt, model):
    gc.collect()
    before = xrt.emulated_bytes()
    classifier = load(model)
    assert xrt.emulated_bytes() > before
    engine = classifier.engine
    classifier.close()
    assert xrt.emulated_bytes() == before
    del engine
