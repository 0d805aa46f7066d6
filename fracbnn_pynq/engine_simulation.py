"""The engine's hardware, simulated cycle by cycle: overlays/engine's SystemVerilog, compiled by Verilator.

The shared library is built on first use and kept in a cache folder under the hash of its sources. Memory is NumPy
arrays of the caller, mapped at physical addresses; the AXI ports' other ends are in overlays/engine/sim/shim.cpp.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .cpus import usable_cpus
from .engine.registers import OFFSETS, PIXELS
from .engine.sources import sources_folder
from .errors import BackendError
from .files import cache_directory, write_file

VERILATOR_OPTIONS = (
    "--cc",
    "--exe",
    "--build",
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-style",
    "-DENGINE_FAST_POPCOUNT",
    "--top-module",
    "engine",
    "-CFLAGS",
    "-O2 -fPIC",
    "-LDFLAGS",
    "-shared",
)
VIOLATIONS = (
    "an address changed before it was accepted",
    "a burst crosses a 4 KiB border",
    "too many reads outstanding",
    "write data wrong or changed before they were accepted",
    "an AXI4-Lite access was not answered",
    "a burst is not INCR of up to 16 aligned beats of 16 bytes",
)
"""What each bit of the shim's violations means."""


def build_library(pixels: int, *, folder: Path | None = None) -> Path:
    """Build the simulated engine of X = ``pixels``, once per version of its sources; returns the shared library's path.

    ``folder``: where built libraries are kept (default: FRACBNN_CACHE, else the user's cache folder). Raises
    :class:`~fracbnn_pynq.errors.BackendError` where Verilator or a C++ compiler is missing or the build fails.
    """
    if pixels not in PIXELS:
        raise BackendError(f"pixels at once: expected one of {', '.join(map(str, PIXELS))}, found {pixels}")
    sources = sources_folder()
    verilator = shutil.which("verilator")
    if verilator is None or shutil.which("g++") is None:
        raise BackendError(
            "the simulated engine is built by Verilator and g++: expected both on PATH, found one missing; "
            "install them (apt-get install verilator g++)"
        )
    files = [*sorted((sources / "rtl").glob("*.sv*")), sources / "sim" / "shim.cpp"]
    digest = hashlib.sha256(repr((VERILATOR_OPTIONS, pixels, _version(verilator))).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    folder = folder or cache_directory() / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"engine-x{pixels}-{digest.hexdigest()[:16]}.so"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(prefix="fracbnn-engine-") as work:
        modules = [str(file) for file in files if file.suffix in {".sv", ".cpp"}]
        command = [verilator, *VERILATOR_OPTIONS, f"-GX={pixels}", f"-I{sources / 'rtl'}", "-Mdir", work]
        command += ["-j", str(usable_cpus()), "-o", "libengine.so", *modules]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
        built = Path(work) / "libengine.so"
        if done.returncode or not built.is_file():
            raise BackendError(f"building the simulated engine failed:\n{(done.stdout + done.stderr)[-4000:]}")
        write_file(target, built.read_bytes(), BackendError)
    return target


def _version(verilator: str) -> str:
    return subprocess.run([verilator, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603


class SimulatedEngine:
    """One simulated engine: registers, memory, and time in clock cycles. A context manager.

    ``pixels``: X. ``latency``: cycles from a read's address to its data. ``stall``: of 256, how often each AXI channel
    makes the other side wait in a cycle; ``seed`` of those waits.
    """

    def __init__(self, pixels: int, *, latency: int = 40, stall: int = 0, seed: int = 0) -> None:
        self.pixels = pixels
        self._library = _load(str(build_library(pixels)))
        self._engine = self._library.engine_new()
        self._mapped: list[npt.NDArray[Any]] = []
        self.set_memory(latency=latency, stall=stall, seed=seed)

    def set_memory(self, *, latency: int = 40, stall: int = 0, seed: int = 0, hangs: bool = False) -> None:
        """How the memory behaves from now on; with ``hangs`` it answers no read."""
        self._library.engine_memory(self._engine, latency, stall, seed, hangs)

    def map(self, address: int, memory: npt.NDArray[Any], *, faulty: bool = False) -> None:
        """Let the engine reach ``memory`` (contiguous) at ``address``; ``faulty``: it answers with errors."""
        if not memory.flags.c_contiguous or not memory.flags.writeable:
            raise BackendError("memory to map: expected a contiguous, writeable array, found another")
        self._mapped.append(memory)
        self._library.engine_map(self._engine, address, memory.ctypes.data, memory.nbytes, faulty)

    def unmap_all(self) -> None:
        """Let the engine reach nothing."""
        self._library.engine_unmap_all(self._engine)
        self._mapped.clear()

    def write(self, name: str, value: int) -> None:
        """Write a register by its name."""
        if self._library.engine_write(self._engine, OFFSETS[name], value):
            raise BackendError(f"register {name}: expected an answer to a write, found none")

    def read(self, name: str) -> int:
        """Read a register by its name."""
        value = ctypes.c_uint32()
        if self._library.engine_read(self._engine, OFFSETS[name], ctypes.byref(value)):
            raise BackendError(f"register {name}: expected an answer to a read, found none")
        return value.value

    def run(self, cycles: int, *, until_interrupt: bool = True) -> int:
        """Let ``cycles`` clock cycles go by, fewer if the interrupt comes; returns how many went by."""
        return int(self._library.engine_run(self._engine, cycles, until_interrupt))

    def reset(self) -> None:
        """Hold the reset for eight cycles; what the memory still had to answer is dropped."""
        self._library.engine_reset(self._engine)

    @property
    def interrupt(self) -> bool:
        return bool(self._library.engine_interrupt(self._engine))

    @property
    def traffic(self) -> tuple[int, int]:
        """Beats of 16 bytes read and written so far."""
        return int(self._library.engine_read_beats(self._engine)), int(self._library.engine_write_beats(self._engine))

    @property
    def violations(self) -> list[str]:
        """Rules of the AXI protocol the engine has broken."""
        bits = int(self._library.engine_violations(self._engine))
        return [text for bit, text in enumerate(VIOLATIONS) if bits >> bit & 1]

    def close(self) -> None:
        """Free the model."""
        if self._engine is not None:
            self._library.engine_free(self._engine)
            self._engine = None

    def __enter__(self) -> SimulatedEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_pictures(
    engine: SimulatedEngine,
    image: npt.NDArray[np.uint8],
    pictures: npt.NDArray[np.uint8],
    features: int,
    *,
    load: bool = True,
    limit: int = 10_000_000,
) -> npt.NDArray[np.int32]:
    """Sums of the last map, int32 [N, features], of uint8 pictures [N, S, S, 3], in one run of the simulated engine.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where the engine reports an error, breaks a rule of the AXI
    protocol or is not done after ``limit`` cycles.
    """
    count = len(pictures)
    given = np.ascontiguousarray(pictures).reshape(count, -1).copy()
    results = np.full((count, features), -1, np.int32)
    program = image.copy()
    places = {"IMAGE": 0x1000_0000, "PICTURE": 0x2000_0000, "RESULT": 0x3000_0000}
    engine.unmap_all()
    for place, memory in zip(places.values(), (program, given, results), strict=True):
        engine.map(place, memory)
    for name, place in places.items():
        engine.write(f"{name}_ADDRESS", place)
    engine.write("PICTURE_STRIDE", given.shape[1])
    engine.write("RESULT_STRIDE", 4 * features)
    engine.write("PICTURES", count)
    engine.write("LOAD", int(load))
    engine.write("GIER", 1)
    engine.write("IP_IER", 1)
    engine.write("CTRL", 1)
    engine.run(limit)
    if not engine.interrupt:
        raise BackendError(f"the simulated engine: expected it done within {limit} cycles, found it busy")
    engine.write("IP_ISR", engine.read("IP_ISR"))
    error = engine.read("ERROR")
    if error or engine.violations:
        raise BackendError(f"the simulated engine: expected no error, found code {error} and {engine.violations}")
    return results


def _load(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "engine_new": (handle, []),
        "engine_free": (None, [handle]),
        "engine_reset": (None, [handle]),
        "engine_map": (None, [handle, u64, handle, u64, ctypes.c_int]),
        "engine_unmap_all": (None, [handle]),
        "engine_memory": (None, [handle, u32, u32, u64, ctypes.c_int]),
        "engine_write": (ctypes.c_int, [handle, u32, u32]),
        "engine_read": (ctypes.c_int, [handle, u32, ctypes.POINTER(u32)]),
        "engine_run": (u64, [handle, u64, ctypes.c_int]),
        "engine_interrupt": (ctypes.c_int, [handle]),
        "engine_violations": (u32, [handle]),
        "engine_read_beats": (u64, [handle]),
        "engine_write_beats": (u64, [handle]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
