"""What a person brings to a board: the two "published" overlays in a folder, and the authors' models in the cache.

The bitstreams are stand-ins that name a core for ``fabric.py``; the hand-off files are the authors' own.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from fracbnn_pynq.importers import import_model
from fracbnn_pynq.modelfile import save_model
from fracbnn_pynq.models import get_published
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.published.catalog import OVERLAYS
from fracbnn_pynq.simulator.handoff import BitstreamTag, make_bit

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
WEIGHTS = {"cifar10_prebuilt_weights.npz": CIFAR10, "imagenet_authors_weights.npz": IMAGENET}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for overlay in OVERLAYS:
        bit = folder / overlay.file("bitstream").name
        bit.write_bytes(make_bit(BitstreamTag(overlay.network)))
        shutil.copy(GOLDEN / overlay.file("handoff").name, folder)
    for name, network in WEIGHTS.items():
        path = get_published(f"{network.name}-authors").path
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(import_model([GOLDEN / name], network), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
