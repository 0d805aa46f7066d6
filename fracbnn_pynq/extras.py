"""What a part of this package needs besides the base installation, as a line that can be typed.

The line names the packages themselves, from this package's metadata, and not ``fracbnn-pynq[extra]``: this package may
have been installed from a checkout or a wheel, which pip would not find by its name.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

NAME = "fracbnn-pynq"


def install_line(extra: str) -> str:
    """``pip install ...`` with what an extra adds on this machine; of a checkout where that is not known."""
    return shlex.join(["pip", "install", *(list(_needed(extra)) or [f".[{extra}]"])])


def _needed(extra: str) -> Iterator[str]:
    from importlib.metadata import PackageNotFoundError, requires  # noqa: PLC0415 - slow to import, and for errors only

    from packaging.requirements import Requirement  # noqa: PLC0415 - as above

    try:
        declared = requires(NAME) or []
    except PackageNotFoundError:  # imported from a folder of sources
        return
    for text in declared:
        requirement = Requirement(text)
        marker, requirement.marker = requirement.marker, None
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield str(requirement)
