"""Where the sources of the engine's hardware are: overlays/engine of a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BackendError

SOURCES_VARIABLE = "FRACBNN_ENGINE_SOURCES"
CORE_VARIABLE = "FRACBNN_SIM_CORE"
"""``rtl``: a simulated board runs these sources; ``model`` (the default): what they compute, by other means."""


def sources_folder() -> Path:
    """The folder overlays/engine: FRACBNN_ENGINE_SOURCES, else the one of this checkout.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where it is not there.
    """
    given = os.environ.get(SOURCES_VARIABLE)
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "overlays" / "engine"
    if not (folder / "rtl" / "engine.sv").is_file():
        raise BackendError(
            f"expected the engine's sources in {folder}, found none",
            advice=f"set {SOURCES_VARIABLE} to overlays/engine of a checkout",
        )
    return folder
