"""Models by name: the bundled one, the authors' fetched on request, and files.

Fetched releases are converted once by the importers and kept as model files in the cache (``FRACBNN_CACHE``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .errors import ModelError
from .modelfile import Model, load_model, save_model
from .networks import get_network

DEFAULT_MODEL = "cifar10"
MODEL_VARIABLE = "FRACBNN_MODEL"


@dataclass(frozen=True)
class PublishedModel:
    """A model this package knows by name. ``bundled``: part of the package, else fetched from its authors."""

    name: str
    network: str
    summary: str
    bundled: bool = False

    @property
    def path(self) -> Path:
        """Where the model file lies, or will once it is fetched."""
        if self.bundled:
            return Path(str(resources.files("fracbnn_pynq.weights").joinpath(f"{self.name}.safetensors")))
        from .board.fetch import cache_directory  # noqa: PLC0415 - the bundled model needs no cache

        return cache_directory() / "models" / f"{self.name}.safetensors"

    @property
    def available(self) -> bool:
        """Whether the model file is here."""
        return self.path.is_file()

    def card(self) -> str:
        """The model card, Markdown."""
        return resources.files("fracbnn_pynq.weights").joinpath(f"{self.name}.md").read_text(encoding="utf-8")


MODELS = {
    model.name: model
    for model in (
        PublishedModel("cifar10", "cifar10", "this project's own, trained on CIFAR-10", bundled=True),
        PublishedModel("cifar10-authors", "cifar10", "the FracBNN authors' CIFAR-10 network"),
        PublishedModel("imagenet-authors", "imagenet", "the FracBNN authors' ImageNet network"),
    )
}


def get_published(name: str) -> PublishedModel:
    """The published model called ``name``; :class:`~fracbnn_pynq.errors.ModelError` for an unknown name."""
    try:
        return MODELS[name]
    except KeyError:
        raise ModelError(f"unknown model {name!r}: expected {', '.join(MODELS)} or a path to a model file") from None


def find_model(name: str | os.PathLike[str] | None = None) -> Model:
    """Load a model by its name or from a path; ``None``: FRACBNN_MODEL, else the bundled CIFAR-10 model.

    Raises :class:`~fracbnn_pynq.errors.ModelError` if there is no such model, it has not been fetched, or its file is
    damaged.
    """
    name = name or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
    if isinstance(name, str) and name in MODELS:
        published = MODELS[name]
        if not published.available:
            raise ModelError(
                f"model {name!r} has not been fetched yet: run 'fracbnn models fetch {name}' (on a machine without "
                f"internet: with --from DIR)"
            )
        return load_model(published.path)
    if isinstance(name, str) and not Path(name).suffix and os.sep not in name and not Path(name).exists():
        get_published(name)  # a bare word that is neither a model nor a file: say which names there are
    return load_model(name)


def fetch_model(name: str, *, source: Path | None = None, progress: bool = True) -> Path:
    """Fetch a published model from its authors (or from ``source``), verify, convert and keep it; its file's path.

    Raises :class:`~fracbnn_pynq.errors.DownloadError` where a file cannot be had or is not the published one.
    """
    published = get_published(name)
    if published.bundled:
        return published.path
    from .board.catalog import get_weights  # noqa: PLC0415 - only fetching needs the catalogue
    from .board.fetch import fetch  # noqa: PLC0415
    from .importers import import_model  # noqa: PLC0415

    artifact = get_weights(name)
    files = fetch(artifact, source=source, progress=progress)
    provenance = {
        "name": name,
        "source": f"https://github.com/{artifact.repository}, commit {artifact.commit}",
        "licence": artifact.licence or "none stated by its authors",
        "description": published.summary,
    }
    used = [path for role, path in files.items() if role != "sample_image"]
    model = import_model(used, get_network(published.network), provenance=provenance)
    published.path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, published.path)
    return published.path
