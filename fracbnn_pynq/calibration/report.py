"""What a calibration measured: as lines, as data, as a picture and as a model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..classifier import softmax
from .work import LayerReport

Logits = npt.NDArray[np.float32]
MEANINGS = {
    "before": "the core with the model's own parameters",
    "after": "the core with the calibrated ones",
    "faithful": "the model in this package's faithful arithmetic, on a CPU",
}


@dataclass(frozen=True)
class Row:
    """One engine against the float network: share of pictures with the same first label, and mean KL divergence."""

    name: str
    agreement: float
    divergence: float


@dataclass(frozen=True)
class Report:
    """``pictures`` were fitted on, ``watched`` measured on. ``layers``: see :class:`.work.LayerReport`."""

    pictures: int
    watched: int
    rows: Sequence[Row]
    layers: Sequence[LayerReport]
    seconds: float

    def lines(self) -> list[str]:
        """What a person wants to know."""
        found = [f"fitted on {self.pictures} pictures in {self.seconds:.0f} s; on {self.watched} others:"]
        for row in self.rows:
            found.append(
                f"  {row.name:9} first label as in float {row.agreement:6.1%}, divergence from float "
                f"{row.divergence:.3f}: {MEANINGS[row.name]}"
            )
        return found

    def layer_lines(self) -> list[str]:
        """What each layer's step did."""
        found = ["what is left per layer, in squared codes an output, with rounded and with fitted parameters:"]
        for layer in self.layers:
            notes = "".join(f"; {note}" for note in layer.notes)
            found.append(f"  {layer.name:16} {layer.before:7.3f} {layer.after:7.3f}{notes}")
        return found

    def data(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "pictures": self.pictures,
            "watched": self.watched,
            "seconds": round(self.seconds, 1),
            "results": {row.name: {"agreement": row.agreement, "divergence": row.divergence} for row in self.rows},
            "layers": [asdict(layer) for layer in self.layers],
        }

    def card(self, name: str, base: str, picture: Path | None) -> str:
        """The calibrated model's card, Markdown."""
        rows = "\n".join(
            f"| {row.name}: {MEANINGS[row.name]} | {row.agreement:.1%} | {row.divergence:.3f} |" for row in self.rows
        )
        shown = (
            f"\n![Agreement with the float network, and what is left per layer]({picture.name})\n" if picture else ""
        )
        return (
            f"# Model card: `{name}`\n\n`{base}` with parameters for the published ImageNet core (arithmetic "
            f"`imagenet-2021`), fitted by `fracbnn calibrate` on {self.pictures} unlabelled pictures. In any other "
            f"arithmetic it is another network.\n\nOn {self.watched} pictures that were not fitted on, against the "
            f"float network:\n\n| | same first label | KL divergence |\n|---|---|---|\n{rows}\n{shown}"
        )

    def draw(self, path: Path) -> bool:
        """Save a picture of the report; false where Matplotlib is not installed."""
        try:
            from matplotlib.figure import Figure  # noqa: PLC0415 - optional
        except ImportError:
            return False
        figure = Figure(figsize=(10, 4), layout="constrained")
        bars, layers = figure.subplots(1, 2, width_ratios=[1, 3])
        bars.bar([row.name for row in self.rows], [100 * row.agreement for row in self.rows])
        bars.set(ylabel="same first label as float, %", ylim=(0, 100))
        fitted = self.layers[:-1]  # the last layer's loss is in other units
        places = range(len(fitted))
        layers.plot(places, [layer.before for layer in fitted], "o-", label="rounded parameters")
        layers.plot(places, [layer.after for layer in fitted], "o-", label="fitted parameters")
        layers.set_xticks(places, [layer.name for layer in fitted], rotation=90, fontsize="small")
        layers.set(ylabel="squared codes an output", yscale="log")
        layers.legend()
        figure.savefig(path, dpi=120)
        return True


def compare(name: str, logits: Logits, wanted: Logits) -> Row:
    """How close ``logits`` come to those of the float network, both float32 [N, classes]."""
    p, q = softmax(wanted), softmax(logits)
    tiny = np.finfo(np.float64).tiny
    divergence = np.sum(p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny))), axis=1)
    return Row(name, float(np.mean(logits.argmax(axis=1) == wanted.argmax(axis=1))), float(divergence.mean()))
