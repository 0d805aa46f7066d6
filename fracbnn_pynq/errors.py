"""The errors this package raises on purpose: one small hierarchy under :class:`FracBNNError`.

Every message says what was expected, what was found and, where it is not obvious, what to do.
"""

from __future__ import annotations


class FracBNNError(Exception):
    """Base of every error raised on purpose by this package.

    ``message``: what was expected and what was found; ``advice``: what to do about it, empty where that is obvious. As
    text the two are joined by a semicolon.
    """

    def __init__(self, message: str = "", *, advice: str = "") -> None:
        super().__init__(f"{message}; {advice}" if advice else message)
        self.message = message
        self.advice = advice


class PictureError(FracBNNError, ValueError):
    """A picture cannot be read or has an unusable form."""


class ModelError(FracBNNError, ValueError):
    """A model is unknown, or its file is damaged, of another version or for another network."""


class SourceError(FracBNNError, ValueError):
    """Files given to an importer are not what the importer understands."""


class BackendError(FracBNNError, RuntimeError):
    """A backend, board or arithmetic is unknown, or cannot run here."""


class CameraError(FracBNNError, RuntimeError):
    """A camera, a network stream, a window or a recording cannot be opened."""


class DownloadError(FracBNNError, RuntimeError):
    """A published file could not be fetched or is not the file that was published."""


class UnknownNameError(BackendError, ValueError):
    """A backend, a board or an overlay has no such name."""


class OverlayError(BackendError):
    """The overlay, its hand-off file or the board do not fit together."""


class UnknownOverlayError(OverlayError, UnknownNameError):
    """No published overlay has this name."""


class AcceleratorError(BackendError):
    """The accelerator did not do what it was started for."""


class AcceleratorTimeoutError(AcceleratorError, TimeoutError):
    """The accelerator did not finish before its deadline."""


class EngineError(AcceleratorError):
    """The project's own accelerator ended a run with an error; ``code`` is that of its register ERROR."""

    def __init__(self, message: str = "", *, advice: str = "", code: int = 0) -> None:
        super().__init__(message, advice=advice)
        self.code = code


class OverlayReplacedError(AcceleratorError):
    """Another overlay has been loaded since this one; nothing of this one is left on the board."""
