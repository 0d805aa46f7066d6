"""Models by name: the bundled one, the authors' once they have been fetched (:mod:`.published.models`), and files."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from .errors import ModelError
from .files import cache_directory
from .model import Model
from .modelfile import load_model

log = logging.getLogger(__name__)

DEFAULT_MODEL = "cifar10"
MODEL_VARIABLE = "FRACBNN_MODEL"


@dataclass(frozen=True)
class PublishedModel:
    """A model this package knows by name.

    ``bundled``: part of the package, else fetched from its authors. ``base``: the fetched model that this one is a
    bundled difference from, made when it is loaded.
    """

    name: str
    network: str
    summary: str
    bundled: bool = False
    base: str | None = None

    @property
    def path(self) -> Path:
        """Where the model file lies, its base's where it has one, or will once it is fetched."""
        if self.base is not None:
            return MODELS[self.base].path
        if self.bundled:
            return Path(str(resources.files("fracbnn_pynq.weights").joinpath(f"{self.name}.safetensors")))
        return cache_directory() / "models" / f"{self.name}.safetensors"

    @property
    def available(self) -> bool:
        """Whether the model file is here."""
        return self.path.is_file()

    def load(self) -> Model:
        """The model. Raises :class:`~fracbnn_pynq.errors.ModelError` where its file is missing or damaged."""
        if not self.available:
            raise ModelError(
                f"model {self.name!r} has not been fetched yet: run 'fracbnn models fetch {self.name}' (on a machine "
                f"without internet: with --from DIR)"
            )
        model = load_model(self.path)
        if self.base is None:
            return model
        from .difference import load_difference  # noqa: PLC0415 - for this model only

        difference = resources.files("fracbnn_pynq.weights").joinpath(f"{self.name}.safetensors")
        made = load_difference(Path(str(difference))).apply(model)
        return replace(made, provenance={**made.provenance, "name": self.name, "description": self.summary})

    def card(self) -> str:
        """The model card, Markdown."""
        return resources.files("fracbnn_pynq.weights").joinpath(f"{self.name}.md").read_text(encoding="utf-8")


MODELS = {
    model.name: model
    for model in (
        PublishedModel("cifar10", "cifar10", "this project's own, trained on CIFAR-10", bundled=True),
        PublishedModel("cifar10-authors", "cifar10", "the FracBNN authors' CIFAR-10 network"),
        PublishedModel("imagenet-authors", "imagenet", "the FracBNN authors' ImageNet network"),
        PublishedModel(
            "imagenet-calibrated",
            "imagenet",
            "the same with this project's parameters for the published ImageNet core",
            base="imagenet-authors",
        ),
    )
}


def own_models() -> dict[str, Path]:
    """Model files that somebody put into the cache's folder ``models``: their paths by name, without ending."""
    files = sorted((cache_directory() / "models").glob("*.safetensors"))
    return {path.stem: path for path in files if path.stem not in MODELS}


def get_published(name: str) -> PublishedModel:
    """The published model called ``name``; :class:`~fracbnn_pynq.errors.ModelError` for an unknown name."""
    try:
        return MODELS[name]
    except KeyError:
        names = ", ".join([*MODELS, *own_models()])
        raise ModelError(f"unknown model {name!r}: expected {names} or a path to a model file") from None


def chosen_model(name: str | os.PathLike[str] | None = None, default: str | None = None) -> str | os.PathLike[str]:
    """The name or path that is meant: ``name``, else FRACBNN_MODEL, else ``default``, else the bundled model's."""
    return name or os.environ.get(MODEL_VARIABLE) or default or DEFAULT_MODEL


def find_model(name: str | os.PathLike[str] | None = None) -> Model:
    """Load a model by its name or from a path; ``None``: see :func:`chosen_model`.

    Raises :class:`~fracbnn_pynq.errors.ModelError` if there is no such model, it has not been fetched, or its file is
    damaged.
    """
    name = chosen_model(name)
    if isinstance(name, str) and name in MODELS:
        log.info("model %s: %s", name, MODELS[name].path)
        return MODELS[name].load()
    if isinstance(name, str) and not Path(name).suffix and os.sep not in name and not os.path.exists(name):
        own = own_models()
        if name not in own:
            get_published(name)  # a bare word that is neither a model nor a file: say which names there are
        name = own[name]
    log.info("model %s", name)
    return load_model(name)
