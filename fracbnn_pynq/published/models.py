"""Fetched models: the authors' release is fetched, verified, converted once and kept as a model file in the cache."""

from __future__ import annotations

from pathlib import Path

from ..importers import import_model
from ..modelfile import save_model
from ..models import get_published
from ..networks import get_network
from .catalog import get_weights
from .fetch import fetch


def fetch_model(name: str, *, source: Path | None = None, progress: bool = True) -> Path:
    """Fetch a published model from its authors (or from ``source``), verify, convert and keep it; its file's path.

    Of a model that is a difference from another one, that other one is fetched.

    Raises :class:`~fracbnn_pynq.errors.DownloadError` where a file cannot be had or is not the published one.
    """
    published = get_published(name)
    if published.base is not None:
        name, published = published.base, get_published(published.base)
    if published.bundled:
        return published.path
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
