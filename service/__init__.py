"""HTTP service: classification and the Open Inference Protocol v2, on FastAPI.

``fracbnn serve`` runs it; ``uvicorn fracbnn_pynq.service:app`` does too, with settings from the environment (see
:meth:`Settings.from_environment`). :func:`create_app` makes an application for classifiers of one's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .application import create_app
    from .settings import Settings

    app: FastAPI

__all__ = ["Settings", "app", "create_app"]


def __getattr__(name: str) -> Any:
    """``app`` is made, and its models are loaded, when it is first asked for."""
    if name == "create_app":
        from .application import create_app  # noqa: PLC0415 - FastAPI is an extra

        return create_app
    if name == "Settings":
        from .settings import Settings  # noqa: PLC0415 - as above

        return Settings
    if name == "app":
        from .application import create_app as create  # noqa: PLC0415 - as above
        from .settings import Settings as Given  # noqa: PLC0415 - as above

        globals()["app"] = made = create(Given.from_environment())
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
