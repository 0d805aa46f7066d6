"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from cli_support import Result, Run, status
from hypothesis import HealthCheck, settings

from fracbnn_pynq import Classifier
from fracbnn_pynq.difference import load_difference
from fracbnn_pynq.importers import import_model
from fracbnn_pynq.model import Model
from fracbnn_pynq.networks import CIFAR10, IMAGENET

# How fast one example runs says what else the machine does; pytest-timeout ends what hangs.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

SHARED = Path(__file__).resolve().parents[2] / "shared"
PICTURES = Path(__file__).resolve().parents[1] / "notebooks" / "pictures"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take minutes are skipped unless they are asked for."""
    if os.environ.get("FRACBNN_LONG") != "1":
        skip = pytest.mark.skip(reason="takes minutes: nox -s engine_long, or FRACBNN_LONG=1")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """What a test makes of loggers does not outlive it: commands and services configure them."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    made = [logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    levels = {logger: logger.level for logger in (root, *made)}
    yield
    root.handlers[:] = handlers
    for logger, level in levels.items():
        logger.setLevel(level)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with golden vectors and data sets beside the checkout; the test is skipped where it is absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("golden vectors are not here: they lie in ../shared beside the checkout and are not part of it")
    return SHARED


@pytest.fixture(scope="module")
def classifier() -> Iterator[Classifier]:
    """The bundled model on the CPU engine."""
    with Classifier.load("cifar10", backend="cpu") as loaded:
        yield loaded


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``fracbnn`` in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = status(*arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    return call


@pytest.fixture(scope="session")
def cat() -> Path:
    """A photograph of a cat."""
    return PICTURES / "cat.jpg"


@cache
def _authors_model(name: str) -> Model:
    network = IMAGENET if name.startswith("imagenet") else CIFAR10
    return import_model([SHARED / "golden" / f"{name}_weights.npz"], network)


@pytest.fixture(scope="session")
def cifar10_authors(shared: Path) -> Model:
    """The authors' CIFAR-10 network, with the exact numbers of the public bitstream."""
    return _authors_model("cifar10_prebuilt")


@pytest.fixture(scope="session")
def cifar10_release(shared: Path) -> Model:
    """The authors' CIFAR-10 network, float32 numbers of their release."""
    return _authors_model("cifar10_upstream")


@pytest.fixture(scope="session")
def imagenet_release(shared: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Arrays of the authors' ImageNet release: ``packed.*`` as deployed, ``sample.*``, and parameters by name."""
    with np.load(shared / "golden" / "imagenet_authors_weights.npz") as arrays:
        yield arrays


@pytest.fixture(scope="session")
def imagenet_authors(shared: Path) -> Model:
    """The authors' ImageNet network."""
    return _authors_model("imagenet_authors")


@pytest.fixture(scope="session")
def imagenet_calibrated(imagenet_authors: Model) -> Model:
    """The same with the bundled parameters for the published core."""
    difference = resources.files("fracbnn_pynq.weights").joinpath("imagenet-calibrated.safetensors")
    return load_difference(Path(str(difference))).apply(imagenet_authors)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch with one thread, which tests beside one another share a machine with best."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
