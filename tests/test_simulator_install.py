"""What the simulator does where pynq, or the CPU engine, is missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fracbnn_pynq import simulator
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.layouts import images as layout
from fracbnn_pynq.model import random_model
from fracbnn_pynq.networks import CIFAR10
from fracbnn_pynq.simulator.compute import Cifar10Network


def test_importing_the_simulator_does_not_import_pynq():
    code = "import sys, fracbnn_pynq.simulator; sys.exit(any(name.startswith('pynq') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_pynq_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(BackendError, match=r"needs pynq.*install it with: .*pynq"):
        simulator.install()


def test_unknown_options_are_refused():
    with pytest.raises(BackendError, match="published, none"):
        simulator.install(latency="some")


def test_without_the_cpu_engine_the_reference_computes_the_same(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fracbnn_pynq.backends.cpu", None)
    model = random_model(CIFAR10)
    network = Cifar10Network(model)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    words = layout.pack_cifar10_image(image)
    expected = ReferenceBackend(model, "cifar10-2020").logits(image[None])[0]
    caplog.clear()
    assert np.array_equal(network(words), expected)
    assert np.array_equal(network(words), expected)
    assert [record.message for record in caplog.records if "slowly" in record.message] == [
        f"the simulated core computes slowly: the CPU engine cannot run here ({_missing()})"
    ]


def _missing() -> str:
    return "import of fracbnn_pynq.backends.cpu halted; None in sys.modules"
