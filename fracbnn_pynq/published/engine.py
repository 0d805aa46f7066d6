"""The project's own overlay: its bitstream is not published by anybody, but built with Vivado from overlays/engine."""

from __future__ import annotations

from pathlib import Path

from ..arithmetic import FAITHFUL
from ..cores import ENGINE_CLOCKS_MHZ, ENGINE_INSTANCE, ULTRA96V2
from ..files import cache_directory

NAME = "engine"
TITLE = "This project's own accelerator for both networks, any model, faithful arithmetic"
PART, CLOCK_MHZ, INSTANCE = ULTRA96V2, ENGINE_CLOCKS_MHZ[0], ENGINE_INSTANCE
STEM = "fracbnn_engine"
ON_BOARD = f"~/.cache/fracbnn/{NAME}, or the folder {NAME} in FRACBNN_CACHE"
"""The folder :func:`bitstream` looks in, on a board as it comes."""
BUILD_ADVICE = (
    "build it with Vivado on another computer (fracbnn overlays build engine, in a checkout), then copy "
    f"{STEM}.bit and {STEM}.hwh there"
)


def bitstream(cache: Path | str | None = None) -> Path:
    """Where the engine's bitstream is looked for: ``engine/fracbnn_engine.bit`` in the cache, and its .hwh with it."""
    return cache_directory(cache) / NAME / f"{STEM}.bit"


def built(cache: Path | str | None = None) -> bool:
    """Whether bitstream and hand-off file are there."""
    path = bitstream(cache)
    return path.is_file() and path.with_suffix(".hwh").is_file()


def preferred(arithmetic: str, cache: Path | str | None = None) -> bool:
    """Whether a real board whose overlay is left open takes the engine: it is built, and computes as is wanted."""
    return arithmetic in ("auto", FAITHFUL.name) and built(cache)
