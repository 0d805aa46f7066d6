"""The overlay engine from a model to its logits: golden pictures on the simulated board, bit for bit."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fracbnn_pynq import Classifier, simulator
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.errors import AcceleratorError, BackendError, ModelError, OverlayError
from fracbnn_pynq.extras import install_line
from fracbnn_pynq.model import random_model
from fracbnn_pynq.modelfile import save_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.published import catalog
from fracbnn_pynq.selection import open_overlay
from fracbnn_pynq.simulator.handoff import make_bit
from fracbnn_pynq.thermometer import levels

needs_pynq = pytest.mark.skipif(
    importlib.util.find_spec("pynq") is None, reason="pynq is not installed: the simulated board is built on it"
)
PICTURE = Path(__file__).resolve().parents[1] / "notebooks" / "pictures" / "cat.jpg"


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "cifar10_csim_64.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def prebuilt(shared):
    with np.load(shared / "golden" / "cifar10_prebuilt_csim.npz") as data:
        return {name: data[name] for name in ("csim_logits", "lossless_csim_logits")}


@pytest.fixture
def simulated():
    """open_overlay on a simulated board, closed at the end."""
    simulator.import_pynq()
    opened = []

    def make(model, **options):
        options = {"simulation": {"latency": "none"}, "model_name": "any", **options}
        opened.append(open_overlay(model, board="simulated", **options))
        return opened[-1]

    yield make
    for backend in opened:
        backend.close()


# CIFAR-10


@needs_pynq
def test_golden_pictures(simulated, cifar10_authors, golden, prebuilt):
    backend = simulated(cifar10_authors)
    assert (backend.name, backend.network, backend.arithmetic.name) == ("overlay", CIFAR10, "cifar10-2020")
    assert np.array_equal(backend.logits(golden["images"]), prebuilt["csim_logits"])
    assert backend.timings["total"] > 0


@needs_pynq
def test_lossless_golden_pictures(simulated, cifar10_authors, shared, prebuilt):
    with np.load(shared / "data" / "cifar10_lossless_1017.npz") as data:
        images = data["images"]
    backend = simulated(cifar10_authors)
    assert np.array_equal(backend.logits(images), prebuilt["lossless_csim_logits"])
    assert images.shape == (1017, 32, 32, 3)


@needs_pynq
def test_a_build_of_the_2021_release(simulated, cifar10_authors, golden):
    backend = simulated(cifar10_authors, arithmetic="cifar10-2021")
    assert np.array_equal(backend.logits(golden["images"]), golden["csim_logits"])


@needs_pynq
def test_published_latency(simulated, cifar10_authors, golden, prebuilt, monkeypatch):
    monkeypatch.setenv("FRACBNN_SIM_LATENCY", "published")
    backend = simulated(cifar10_authors, simulation=None)
    assert np.array_equal(backend.logits(golden["images"]), prebuilt["csim_logits"])
    assert backend.timings["run"] >= 0.355


@needs_pynq
@pytest.mark.parametrize(("stem", "network"), [("FracNet_T_0", CIFAR10), ("0503", IMAGENET)])
def test_the_published_hand_off_files(
    stem, network, shared, tmp_path, cifar10_authors, imagenet_authors, golden, prebuilt, monkeypatch
):
    """With the authors' own hand-off files, found in the cache as on a board."""
    pynq = simulator.import_pynq()
    artifact = catalog.get_overlay(network.name)
    bit = tmp_path / f"{stem}.bit"
    bit.write_bytes(make_bit())
    bit.with_suffix(".hwh").write_bytes((shared / "golden" / f"{stem}.hwh").read_bytes())
    monkeypatch.setattr(
        "fracbnn_pynq.selection.locate", lambda wanted: {"bitstream": bit} if wanted is artifact else {}
    )
    model = cifar10_authors if network is CIFAR10 else imagenet_authors
    with simulator.install(latency="none", model=model):
        assert pynq.Device.active_device.part.startswith(artifact.part)
        backend = open_overlay(model, model_name="cifar10-authors", board="real", lock=tmp_path / "lock", timeout_s=10)
        try:
            if network is CIFAR10:
                assert np.array_equal(backend.logits(golden["images"]), prebuilt["csim_logits"])
            else:
                with np.load(shared / "golden" / "imagenet_csim_4.npz") as data:
                    assert np.array_equal(backend.accelerator.result_codes(data["images"][:1]), data["result_q4"][:1])
            with pytest.raises(BackendError, match=f"in use by process {os.getpid()}"):
                open_overlay(model, model_name="cifar10-authors", board="real", lock=tmp_path / "lock")
        finally:
            backend.close()


# ImageNet


@needs_pynq
def test_golden_photos(simulated, imagenet_authors, shared):
    with np.load(shared / "golden" / "imagenet_csim_4.npz") as data:
        images, codes, top5 = data["images"], data["result_q4"], data["top5"]
    backend = simulated(imagenet_authors)
    assert backend.arithmetic.name == "imagenet-2021"
    assert np.array_equal(backend.accelerator.result_codes(images), codes)
    assert np.array_equal(np.argsort(-backend.logits(images), axis=1)[:, :5], top5)


@needs_pynq
def test_calibrated_parameters_through_the_driver(simulated, imagenet_calibrated, shared, caplog):
    with np.load(shared / "golden" / "imagenet_csim_4.npz") as data:
        images, codes = data["images"], data["result_q4"]
    backend = simulated(imagenet_calibrated)
    assert not caplog.records  # nothing to warn of
    engine = CpuBackend(imagenet_calibrated, "imagenet-2021")
    found = backend.accelerator.result_codes(images)
    assert np.array_equal(found, engine.result_map_from_levels(levels(images)))
    assert np.array_equal(backend.logits(images), engine.logits(images))
    assert not np.array_equal(found, codes)


@needs_pynq
def test_parameters_that_are_not_for_the_core(simulated, imagenet_authors, caplog):
    simulated(imagenet_authors)
    assert "use model imagenet-calibrated" in caplog.text


@needs_pynq
def test_parameters_for_another_arithmetic(simulated):
    other = replace(random_model(CIFAR10), arithmetic="cifar10-2021")
    with pytest.raises(BackendError, match="parameters are for the arithmetic cifar10-2021"):
        simulated(other, arithmetic="cifar10-2020")


def test_the_imagenet_overlays_model_is_the_calibrated_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path))
    monkeypatch.delenv("FRACBNN_MODEL", raising=False)
    with pytest.raises(ModelError, match="model 'imagenet-calibrated' has not been fetched yet"):
        Classifier.load(overlay="imagenet-overlay", board="simulated")
    with pytest.raises(ModelError, match="model 'imagenet-authors' has not been fetched yet"):
        Classifier.load("imagenet-authors", overlay="imagenet-overlay", board="simulated")


@needs_pynq
def test_the_authors_sample_picture(simulated, imagenet_authors, imagenet_release):
    """The release has it as image words only, so one picture with these thermometer levels stands for it."""
    from fracbnn_pynq.layouts.images import pack_imagenet_image, unpack_imagenet_image

    words, codes, top5 = (imagenet_release[f"sample.{name}"] for name in ("image_thermo", "result_q4", "top5"))
    image = np.minimum(unpack_imagenet_image(words).astype(int) * 8, 255).astype(np.uint8)
    assert np.array_equal(pack_imagenet_image(image), words)
    backend = simulated(imagenet_authors)
    assert np.array_equal(backend.accelerator.result_codes(image[None])[0], codes)
    assert np.argsort(-backend.logits(image[None])[0])[:5].tolist() == top5.tolist()


# Through the classifier


@needs_pynq
def test_a_photograph_from_file_to_label(cifar10_authors, tmp_path, monkeypatch):
    simulator.import_pynq()
    monkeypatch.setenv("FRACBNN_SIM_LATENCY", "none")
    path = tmp_path / "model.safetensors"
    save_model(cifar10_authors, path)
    with Classifier.load(path, backend="overlay", board="simulated") as classifier:
        found = classifier.classify(PICTURE)
        assert (classifier.backend, classifier.arithmetic) == ("overlay", "cifar10-2020")
    with Classifier.load(path, backend="cpu", arithmetic="cifar10-2020") as reference:
        assert found.top == reference.classify(PICTURE).top


# What cannot be


def test_arithmetics_the_core_has_not(cifar10_authors):
    for board, arithmetic in [("simulated", "faithful"), ("real", "cifar10-2021"), ("simulated", "float")]:
        with pytest.raises(BackendError, match=f"not in '{arithmetic}'; leave it at auto, or use --backend cpu"):
            open_overlay(cifar10_authors, model_name="cifar10-authors", board=board, arithmetic=arithmetic)


def test_weights_the_bitstream_has_not(cifar10_authors):
    for name in ("cifar10", None, "/some/model.safetensors"):
        with pytest.raises(
            BackendError, match=r"built in and cannot run .*; use --model cifar10-authors, or --backend"
        ):
            open_overlay(cifar10_authors, model_name=name, board="real")


def test_an_overlay_that_has_not_been_fetched(cifar10_authors, tmp_path, monkeypatch):
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path))
    with pytest.raises(BackendError, match="run 'fracbnn overlays fetch cifar10-overlay'"):
        open_overlay(cifar10_authors, model_name="cifar10-authors", board="real")


def test_a_machine_without_a_board(cifar10_authors):
    with pytest.raises(BackendError, match=r"--board simulated .* --backend cpu"):
        open_overlay(cifar10_authors, model_name="cifar10-authors", board="auto")


def test_without_pynq(cifar10_authors, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynq", None)
    monkeypatch.setattr("fracbnn_pynq.selection.locate", lambda artifact: {"bitstream": tmp_path / "x.bit"})
    for board in ("real", "simulated"):
        with pytest.raises(BackendError, match=re.escape(install_line("board"))):
            open_overlay(cifar10_authors, model_name="cifar10-authors", board=board, lock=tmp_path / "lock")


@needs_pynq
def test_one_simulated_board_at_a_time(simulated, cifar10_authors):
    backend = simulated(cifar10_authors)
    with pytest.raises(BackendError, match="in use by this process; close the classifier that uses it first"):
        simulated(cifar10_authors)
    backend.close()
    backend.close()
    assert simulated(cifar10_authors).logits(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 10)


@needs_pynq
def test_a_backend_nobody_holds_is_closed(cifar10_authors):
    simulator.import_pynq()
    for _ in range(2):
        backend = open_overlay(
            cifar10_authors,
            model_name=None,
            board="simulated",
            simulation={"latency": "none", "cifar10": lambda words: words},
        )
        assert backend.simulated
        del backend
        gc.collect()


@needs_pynq
@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("wrong-part", OverlayError, "xczu5eg"),
        ("clock-stuck", OverlayError, "expected at most 250 MHz"),
        ("cma-exhausted@2", AcceleratorError, "contiguous memory"),
    ],
)
def test_faults_of_the_board_leave_nothing_behind(simulated, cifar10_authors, fault, error, message):
    with pytest.raises(error, match=message):
        simulated(cifar10_authors, simulation={"latency": "none", "faults": [fault]})
    assert simulated(cifar10_authors).logits(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 10)


@needs_pynq
def test_reloading(simulated, cifar10_authors, golden, prebuilt):
    backend = simulated(cifar10_authors, simulation={"latency": "none", "faults": ["hang@2"]}, timeout_s=0.2)
    with pytest.raises(AcceleratorError):
        backend.logits(golden["images"])
    backend.reload()
    assert np.array_equal(backend.logits(golden["images"]), prebuilt["csim_logits"])


# Several processes

SCRIPT = """
    import sys, numpy as np
    from fracbnn_pynq import simulator
    from fracbnn_pynq.selection import open_overlay
    from fracbnn_pynq.errors import BackendError
    from fracbnn_pynq.modelfile import load_model
    model, lock, fault = sys.argv[1:4]
    simulator.import_pynq()
    images = np.arange(64 * 3072, dtype=np.uint32).astype(np.uint8).reshape(64, 32, 32, 3)
    try:
        backend = open_overlay(load_model(model), model_name="any", board="simulated", lock=lock, timeout_s=30,
                                      simulation={"latency": "none", "faults": [fault] if fault else []})
    except BackendError as error:
        print(error, flush=True)
        raise SystemExit(3)
    print("open", flush=True)
    print(backend.logits(images).sum(), flush=True)
    backend.close()
"""


def process(model, lock, fault=""):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(model), str(lock), fault]
    # A killed process leaves its temporary folder behind.
    environment = {**os.environ, "TMPDIR": str(Path(lock).parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@needs_pynq
def test_a_second_process_is_told_and_a_killed_one_leaves_the_board_free(cifar10_authors, tmp_path):
    save_model(cifar10_authors, tmp_path / "model.safetensors")
    paths = tmp_path / "model.safetensors", tmp_path / "lock"
    with process(*paths, "hang@5") as first:
        assert first.stdout.readline() == "open\n"  # and now it is in the middle of a picture that does not end
        with process(*paths) as second:
            assert f"in use by process {first.pid} " in second.stdout.readline()
            assert second.wait(30) == 3
        first.send_signal(signal.SIGKILL)
        assert first.wait(30) == -signal.SIGKILL
    with process(*paths) as third:
        assert third.stdout.readline() == "open\n"
        images = np.arange(64 * 3072, dtype=np.uint32).astype(np.uint8).reshape(64, 32, 32, 3)
        expected = ReferenceBackend(cifar10_authors, "cifar10-2020").logits(images).sum()
        assert third.stdout.readline().strip() == str(expected)
        assert third.wait(30) == 0
