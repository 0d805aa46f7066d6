"""The errors this package raises on purpose: one small hierarchy under :class:`FracBNNError`.

Every message says what was expected, what was found and, where it is not obvious, what to do.
"""

from __future__ import annotations


class FracBNNError(Exception):
    """Base of every error raised on purpose by this package."""


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


class OverlayError(BackendError):
    """The overlay, its hand-off file or the board do not fit together."""


class AcceleratorError(BackendError):
    """The accelerator did not do what it was started for."""


class AcceleratorTimeoutError(AcceleratorError, TimeoutError):
    """The accelerator did not finish before its deadline."""


class OverlayReplacedError(AcceleratorError):
    """Another overlay has been loaded since this one; nothing of this one is left on the board."""
