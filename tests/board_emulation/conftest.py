"""Fixtures of the tests that run on the emulated board; see README.md."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fracbnn_pynq import Classifier
from fracbnn_pynq.simulator import import_pynq

PUBLISHED = Path("/run/published")
SIGNS = Path("/run/fabric")
NETWORKS = ("cifar10", "imagenet")


def run(*command: object, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    """A command to its end; its output is in the failure's message."""
    found = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert not check or found.returncode == 0, f"{command}: {found.returncode}\n{found.stdout}\n{found.stderr}"
    return found


@pytest.fixture(scope="session", autouse=True)
def fetched() -> None:
    """The published overlays in the cache, as a person on a board without internet gets them there."""
    if not SIGNS.is_dir():
        pytest.fail("these tests run on the emulated board only: python tests/board_emulation/machine.py -- ...")
    import_pynq()  # without the warnings that it gives where it is not imported on a real board
    for network in NETWORKS:
        run("fracbnn", "overlays", "fetch", network, "--from", PUBLISHED)


@pytest.fixture
def load() -> Iterator[object]:
    """Classifiers on the board, closed at the end."""
    with contextlib.ExitStack() as stack:

        def load(model: str = "cifar10-authors") -> Classifier:
            loaded = stack.enter_context(Classifier.load(model, backend="overlay", board="real"))
            loaded.engine.accelerator.timeout_s = 10.0  # cores are slow here
            return loaded

        yield load


@pytest.fixture(scope="session")
def golden(shared: Path) -> dict[str, np.ndarray]:
    """64 pictures, and the logits of the core in the public bitstream."""
    pictures, logits = (np.load(shared / "golden" / f"cifar10_{name}.npz") for name in ("csim_64", "prebuilt_csim"))
    return {"images": pictures["images"], "logits": logits["csim_logits"]}


@pytest.fixture(scope="session")
def photos(shared: Path) -> dict[str, np.ndarray]:
    """Photographs, and the ImageNet core's results."""
    with np.load(shared / "golden" / "imagenet_csim_4.npz") as data:
        return {name: data[name] for name in ("images", "result_q4", "top5")}


@pytest.fixture
def sign() -> Iterator[object]:
    """Tells the programmable logic to do something: ``hang`` or ``refuse``; until it is taken away again."""

    @contextlib.contextmanager
    def show(name: str) -> Iterator[None]:
        (SIGNS / name).touch()
        try:
            yield
        finally:
            (SIGNS / name).unlink()

    return show


@pytest.fixture(scope="session")
def xrt() -> ctypes.CDLL:
    """What tests may ask of XRT's stand-in: ``emulated_bytes`` in buffers, and ``emulated_synced`` so far."""
    core = ctypes.CDLL(f"{os.environ['XILINX_XRT']}/lib/libxrt_core.so")
    core.emulated_bytes.restype = core.emulated_synced.restype = ctypes.c_uint64
    return core


@pytest.fixture
def physical() -> Iterator[object]:
    """Physical memory: ``physical(address, nbytes)``."""
    descriptor = os.open("/dev/mem", os.O_RDWR)
    yield lambda address, nbytes=mmap.PAGESIZE: mmap.mmap(descriptor, nbytes, offset=address)
    os.close(descriptor)


@pytest.fixture
def python() -> object:
    """Runs a script in another process on this board, with options for ``subprocess.run``."""
    return lambda script, **options: run(sys.executable, "-c", script, **options)
