"""Other people's releases into models: one module per kind of source, no pickle executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ModelError, SourceError
from ..model import Model
from ..networks import CIFAR10, IMAGENET, Network


def import_model(
    sources: Sequence[Path],
    network: Network,
    *,
    provenance: dict[str, Any] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Model:
    """A model from ``sources``, recognised by their endings.

    * two ``.h`` files: the authors' CIFAR-10 tables
    * five ``.bin`` files: the authors' ImageNet host files
    * one ``.npz``, ``.safetensors`` or PyTorch checkpoint (``.pt``, ``.pth``, ``.pth.tar``, ``.ckpt``, ``.bin``):
      parameters under the authors' names, batch norms folded or not

    ``classes`` replaces the network's own class names for a network trained on other pictures. Raises
    :class:`~fracbnn_pynq.errors.SourceError` if the files are not what they should be.
    """
    given = dict(provenance or {})
    given.setdefault("source", [path.name for path in sources])
    model = _read(sources, network, given, classes)
    if classes is None or classes == model.classes:
        return model
    try:
        return replace(model, classes=classes)
    except ModelError as error:
        raise SourceError(str(error)) from None


def _read(sources: Sequence[Path], network: Network, given: dict[str, Any], classes: tuple[str, ...] | None) -> Model:
    endings = {path.suffix.lower() for path in sources}
    if endings == {".h"} and network is CIFAR10:
        from .hls_tables import import_hls_tables  # noqa: PLC0415 - only the importer that is used is loaded

        return import_hls_tables(sources, given)
    if endings == {".bin"} and network is IMAGENET and len(sources) > 1:
        from .host_files import import_host_files  # noqa: PLC0415

        return import_host_files(sources, given)
    from .archives import ENDINGS, import_archive  # noqa: PLC0415

    if len(sources) == 1 and endings <= ENDINGS:
        return import_archive(sources[0], network, given, classes)
    raise SourceError(
        "expected the two .h files of the authors' CIFAR-10 release, the five .bin files of their ImageNet release "
        "(with --network imagenet), or one .npz, .safetensors, .pt, .pth, .ckpt or .bin; found "
        f"{', '.join(path.name for path in sources)} for {network.name}"
    )
