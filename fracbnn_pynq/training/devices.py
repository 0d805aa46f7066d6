"""What PyTorch computes on: its name, and the precision that it is fast in."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import torch

from ..errors import SourceError

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""Of the convolutions' inputs in training. What lies between them, and all sums, are float32."""
_CPU_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
"""Names that Linux gives to instructions that multiply bfloat16, on x86 and (the last) on aarch64."""
_CUDA_WITH_BFLOAT16 = (8, 0)
CPU_SECONDS = {"cifar10": 0.01, "imagenet": 1.0}
"""About how long a CPU takes for a picture of a step, to tell runs of seconds from runs of hours."""
_COMPILING_S, _COMPILED_SPEEDUP = 90.0, 1.2
"""What compiling costs for each size of pictures on two cores, and how much faster a step is then."""
_CPUINFO = Path("/proc/cpuinfo")


def choose_precision(device: torch.device, wanted: str | None = None) -> str:
    """``wanted``, or bfloat16 where ``device`` has instructions for it, else float32.

    A processor without them emulates bfloat16, which made a step five times slower than float32. Raises
    :class:`~fracbnn_pynq.errors.SourceError` for a name that is not in :data:`PRECISIONS`.
    """
    if wanted is not None:
        if wanted not in PRECISIONS:
            raise SourceError(f"precision: expected one of {', '.join(PRECISIONS)}, found {wanted!r}")
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= _CUDA_WITH_BFLOAT16 else "float32"
    return "bfloat16" if device.type == "cpu" and _CPU_FLAGS & _cpu_flags() else "float32"


def pays_to_compile(device: torch.device, seconds: float, sizes: int) -> bool:
    """Whether a run of ``seconds`` with pictures of that many ``sizes`` wins more by compiling than it costs.

    Never on a CPU without a C++ compiler, which PyTorch needs for it.
    """
    if device.type == "cpu" and shutil.which("c++") is None:
        return False
    return seconds * (1 - 1 / _COMPILED_SPEEDUP) > sizes * _COMPILING_S


def describe_device(device: torch.device) -> str:
    """What a person calls it: a GPU's name, or the processor's with the threads that are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"the device {device}"
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _cpu_lines() -> list[tuple[str, str]]:
    """Keys and values of the first processor; none where the system does not say."""
    try:
        text = _CPUINFO.read_text(errors="replace")
    except OSError:
        return []
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return [(key.strip().lower(), value.strip()) for key, _, value in pairs]


def _cpu_flags() -> set[str]:
    return {flag for key, value in _cpu_lines() if key in {"flags", "features"} for flag in value.split()}


def _cpu_name() -> str:
    return dict(_cpu_lines()).get("model name", f"{platform.machine()} processor")
