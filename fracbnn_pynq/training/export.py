"""The end of a run: the model file, the check that its integers do what the float network does, the model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..files import write_file
from ..model import Model
from ..modelfile import save_model
from .devices import describe_device
from .evaluate import Comparison, compare
from .run import Report, TrainingRun

LARGEST_DIFFERENCE = 0.01
"""By how much the accuracy of the exported model may differ from the float network's before a warning is due."""


FEWEST_STEPS = 200
"""With fewer a network has hardly begun to learn: warm-up, the switch to binary weights and cooling all lie in them."""


def too_few_steps(steps: int) -> str:
    """What to say of a run of so few steps."""
    return (
        f"warning: expected at least {FEWEST_STEPS} steps, found a budget of {steps}; give more --hours or --epochs, "
        "or a smaller --batch, else the network has hardly learnt anything"
    )


@dataclass(frozen=True)
class Exported:
    """A saved model and what was measured on it."""

    model: Model
    comparison: Comparison
    steps: int
    no_picture: str = ""
    """Why no picture of the run was drawn; empty where one was."""

    def lines(self) -> list[str]:
        """What a person wants to know of it."""
        found = self.comparison
        lines = [
            f"accuracy on {found.pictures} pictures: {found.integer_accuracy:.2%} as exported (faithful arithmetic), "
            f"{found.float_accuracy:.2%} in float; same answer for {found.agreement:.2%}",
            f"gates open: {found.gates_open:.1%}",
        ]
        if self.steps < FEWEST_STEPS:
            lines.append(too_few_steps(self.steps))
        if self.no_picture:
            lines.append(f"no picture of the run: {self.no_picture}")
        difference = abs(found.integer_accuracy - found.float_accuracy)
        if difference > LARGEST_DIFFERENCE + 1e-9:
            lines.append(
                f"warning: expected accuracies within {LARGEST_DIFFERENCE:.0%} of each other, found {difference:.2%} "
                "between them. On few pictures this may be chance; else train longer"
            )
        return lines


def export(run: TrainingRun, out: Path, *, initial: str | None = None, teacher: str | None = None) -> Exported:
    """Save what ``run`` has trained at ``out`` and its card beside it (.md, with a picture of the run, .png).

    ``initial`` and ``teacher``: what the run started from and learnt from, for the card.
    """
    folded = run.model()
    comparison = compare(run.module, folded, run.test)
    provenance = {
        "name": out.stem,
        "description": f"FracBNN for {run.network.title}, trained with fracbnn train",
        "trained_on": f"{run.train.name}, {len(run.train):,} pictures",
        "recipe": describe(run, initial, teacher),
        "accuracy": {
            f"{run.test.name}, {comparison.pictures} pictures, faithful": round(comparison.integer_accuracy, 4),
            f"{run.test.name}, {comparison.pictures} pictures, float": round(comparison.float_accuracy, 4),
        },
        "gates_open": round(comparison.gates_open, 4),
    }
    model = replace(folded, provenance=provenance)
    save_model(model, out)
    missing = _draw(run.reports, out.with_suffix(".png"))
    picture = None if missing else out.with_suffix(".png")
    write_file(out.with_suffix(".md"), _card(model, comparison, picture).encode(), ModelError)
    return Exported(model, comparison, run.steps, missing)


def describe(run: TrainingRun, initial: str | None, teacher: str | None) -> str:
    """One paragraph: how the run trained."""
    recipe, seconds = run.recipe, run.seconds
    sizes = ", ".join(f"{round(share * run.network.image_size)} from {start:.0%}" for start, share in recipe.sizes)
    parts = [
        f"{run.epochs:.1f} epochs in {seconds / 3600:.2f} hours of training time on {describe_device(run.device)} in "
        f"{run.precision}",
        f"Adam, batch {recipe.batch}, one cosine cycle from {recipe.peak_rate:g}",
        f"started from {Path(initial).name}" if initial is not None else "from scratch",
        f"real weights for {recipe.float_until:.0%} of the run, then binary"
        if recipe.float_until
        else "binary weights",
        f"picture edge {sizes}",
        f"thresholds pulled to {recipe.gate_target:g} with {recipe.gate_pull:g}",
        f"shifted by up to {recipe.shift:.1%}"
        if recipe.zoom == 1
        else f"crops of at least {recipe.zoom:.0%} of the edge",
        "mirrored" if recipe.flip else "not mirrored",
        f"seed {run.seed}",
        f"PyTorch {torch.__version__}",
    ]
    if teacher is not None:
        parts.insert(
            3,
            f"{recipe.teacher_share:.0%} of the loss from the teacher {Path(teacher).stem}, "
            f"temperature {recipe.temperature:g}",
        )
    if recipe.smoothing:
        parts.insert(3, f"label smoothing {recipe.smoothing:g}")
    return "; ".join(parts)


def _card(model: Model, found: Comparison, picture: Path | None) -> str:
    facts = model.provenance
    network = model.network
    rows = {
        "Input": f"{network.image_size}x{network.image_size} RGB",
        "Classes": ", ".join(model.classes[:20]) + (", ..." if len(model.classes) > 20 else ""),
        "Trained on": facts["trained_on"],
        "Recipe": facts["recipe"],
        "Gates open": f"{found.gates_open:.0%} of the outputs",
        "Accuracy in the `faithful` arithmetic": f"{found.integer_accuracy:.2%} of {found.pictures:,} pictures",
        "Accuracy in float": f"{found.float_accuracy:.2%} of the same",
        "Same answer in both": f"{found.agreement:.2%}",
    }
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    shown = f"\n![Accuracy, gates and loss during the run]({picture.name})\n" if picture else ""
    return f"# Model card: `{_cell(facts['name'])}`\n\n{facts['description']}.\n\n| | |\n|---|---|\n{table}\n{shown}"


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _draw(reports: Sequence[Report], path: Path) -> str:
    """A picture of the run; why there is none, else nothing."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError:
        return "Matplotlib is not installed (pip install matplotlib)"
    if not reports:
        return "nothing was measured in it"
    hours = [report.seconds / 3600 for report in reports]
    marker = "o" if len(reports) < 3 else ""  # a line needs two points to be seen
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    shares = figure.add_subplot()
    shares.plot(hours, [100 * report.accuracy for report in reports], label="accuracy", marker=marker)
    shares.plot(hours, [100 * report.gates_open for report in reports], label="gates open", marker=marker)
    shares.set(xlabel="hours of training", ylabel="per cent", ylim=(0, 100))
    loss = shares.twinx()
    loss.plot(hours, [report.loss for report in reports], color="grey", linestyle=":", label="loss", marker=marker)
    loss.set(ylabel="loss")
    figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=120)
    return ""
