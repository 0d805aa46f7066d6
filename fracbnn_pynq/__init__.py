"""FracBNN binary neural networks on the Ultra96-V2 (PYNQ), on a simulated board and on the CPU.

>>> from fracbnn_pynq import Classifier
>>> Classifier.load().classify("cat.jpg").label
'cat'
"""

from ._version import __version__
from .classifier import Classifier, Prediction
from .errors import (
    AcceleratorError,
    AcceleratorTimeoutError,
    BackendError,
    CameraError,
    DownloadError,
    FracBNNError,
    ModelError,
    OverlayError,
    OverlayReplacedError,
    PictureError,
    SourceError,
    UnknownNameError,
)

__all__ = [
    "AcceleratorError",
    "AcceleratorTimeoutError",
    "BackendError",
    "CameraError",
    "Classifier",
    "DownloadError",
    "FracBNNError",
    "ModelError",
    "OverlayError",
    "OverlayReplacedError",
    "PictureError",
    "Prediction",
    "SourceError",
    "UnknownNameError",
    "__version__",
]
