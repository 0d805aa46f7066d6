"""A training run: steps until its budget is spent, checkpoints on the way, a model at the end.

Everything random in a step follows from the run's seed and the step's number, and what happens when follows from the
run's progress. So a run that is killed and started again continues from its last checkpoint as if nothing had been.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ..datasets import Dataset
from ..errors import SourceError
from ..importers.parameters import build_model
from ..model import Model
from ..networks import Network
from .augment import augment, resized
from .checkpoint import check_settings, load_checkpoint, restoring, save_checkpoint
from .devices import CPU_SECONDS, choose_precision, pays_to_compile
from .evaluate import gates_open, quick_accuracy
from .network import build_network, gated_layers, named_arrays, set_binary
from .recipe import Recipe
from .start import read_start, start_with
from .teacher import Teacher, distillation

START_PICTURES = 64
CHECKPOINT_S = 120.0
REPORT_S = 300.0
"""Seconds between two checkpoints, and between two measurements of the accuracy."""
_BAR = "{percentage:3.0f}%|{bar}| {elapsed}{postfix}"


@dataclass(frozen=True)
class Budget:
    """How long a run trains: so many passes over the data, or so many hours of training time."""

    epochs: float | None = None
    hours: float | None = None

    def progress(self, epochs: float, seconds: float) -> float:
        """Share of the budget that is spent, 0 to 1."""
        share = epochs / self.epochs if self.epochs is not None else seconds / (3600 * (self.hours or 1e-9))
        return min(share, 1.0)


@dataclass
class Report:
    """One measurement during a run; accuracies and gate fractions are shares of one."""

    progress: float
    epochs: float
    seconds: float
    loss: float
    accuracy: float
    gates_open: float


@dataclass
class _State:
    step: int = 0
    seconds: float = 0.0
    loss: float = float("nan")
    reports: list[Report] = field(default_factory=list)


class TrainingRun:
    """Trains ``network``, with as many classes as ``train`` has, and measures on ``test``; see :meth:`run`.

    ``folder`` holds the checkpoint, from which the run goes on if there is one. ``teacher``: see :mod:`.teacher`.
    ``device`` is a PyTorch device. ``compiled``: whether PyTorch compiles the step, which takes it a minute or two for
    each size of the pictures; ``None``: where :func:`.devices.pays_to_compile` says so. ``progress``: show a bar.

    Raises :class:`~fracbnn_pynq.errors.SourceError` where there is nothing to train on, or the checkpoint is that of
    a run with other settings, pictures, labels or teacher.
    """

    def __init__(
        self,
        network: Network,
        train: Dataset,
        test: Dataset,
        folder: Path,
        *,
        recipe: Recipe,
        budget: Budget,
        seed: int = 0,
        teacher: Teacher | None = None,
        device: str = "cpu",
        compiled: bool | None = None,
        precision: str | None = None,
        progress: bool = False,
    ) -> None:
        if len(train) < recipe.batch or len(test) == 0:
            raise SourceError(
                f"expected at least {recipe.batch} pictures (a batch) to train on and one to measure on, found "
                f"{len(train)} and {len(test)}: give more pictures or a smaller --batch"
            )
        self.network, self.train, self.test = network.with_classes(len(train.classes)), train, test
        self.recipe, self.budget, self.seed, self.teacher = recipe, budget, seed, teacher
        self.device = torch.device(device)
        self.precision = choose_precision(self.device, precision)
        self._path = folder / "checkpoint.pt"
        self._show = progress
        self._pictures = ", ".join(f"{len(data)} ({data.fingerprint()})" for data in (train, test))
        torch.manual_seed(seed)
        self.module = build_network(self.network).to(self.device)
        self._channels_last()
        self._optimiser = torch.optim.Adam(self.module.parameters(), lr=recipe.peak_rate)
        self._state = _State()
        self._multiple = network.image_size // network.pool_size
        loss: Callable[..., Tensor] = self._loss
        if compiled is None:
            seconds = self._seconds_expected()
            compiled = pays_to_compile(self.device, seconds, len(recipe.sizes))
        # Pictures change their size a few times in a run; each size is worth compiling for.
        self._compiled = torch.compile(loss, dynamic=False) if compiled else loss
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None
        self._stop = False
        if self._path.exists():
            self._restore()

    @property
    def steps_per_epoch(self) -> int:
        """Batches that fit into the pictures; the few left over differ from epoch to epoch."""
        return len(self.train) // self.recipe.batch

    @property
    def steps(self) -> int:
        """Steps done so far, over all the run's processes."""
        return self._state.step

    @property
    def steps_planned(self) -> int | None:
        """Steps of the whole run; ``None`` where its budget is a time."""
        return None if self.budget.epochs is None else round(self.budget.epochs * self.steps_per_epoch)

    @property
    def resumed(self) -> bool:
        """Whether the run goes on from a checkpoint."""
        return self._state.step > 0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        return self.budget.progress(self.epochs, self._state.seconds)

    @property
    def epochs(self) -> float:
        """How many times the run has gone through the pictures."""
        return self._state.step / self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Time spent in steps, over all the run's processes."""
        return self._state.seconds

    @property
    def reports(self) -> list[Report]:
        """What was measured so far."""
        return self._state.reports

    def start_from(self, source: str) -> bool:
        """Begin with trained parameters; whether they have this run's number of classes: see :mod:`.start`."""
        arrays = read_start(source, self.network)
        pictures, _ = self.train.take(np.arange(0, len(self.train), max(1, len(self.train) // START_PICTURES)))
        sample = torch.from_numpy(pictures[:START_PICTURES]).to(self.device)
        return start_with(self.module, arrays, self.network.classes, sample)

    def stop(self) -> None:
        """Make :meth:`run` save and return after the step it is at; may be called by a signal handler."""
        self._stop = True

    def run(self) -> bool:
        """Train until the budget is spent; false if :meth:`stop` came first. A checkpoint is saved in either case."""
        saved = reported = time.monotonic()
        with tqdm(
            total=1.0, initial=round(self.progress, 4), disable=None if self._show else True, bar_format=_BAR
        ) as bar:
            while self.progress < 1 and not self._stop:
                begun = time.monotonic()
                self._step()
                now = time.monotonic()
                self._state.seconds += now - begun
                bar.set_postfix_str(f"loss {self._state.loss:.3f}", refresh=False)
                bar.update(self.progress - bar.n)
                if now - reported > REPORT_S or self.progress >= 1:
                    self._measure(bar)
                    reported = time.monotonic()
                if now - saved > CHECKPOINT_S:
                    self._save()
                    saved = time.monotonic()
        self._save()
        return self.progress >= 1

    def model(self) -> Model:
        """The network as it is now, as a model file holds it, without provenance: folded and packed by the importer."""
        return build_model(self.network, named_arrays(self.module), self.train.classes, {})

    def _step(self) -> None:
        progress, recipe = self.progress, self.recipe
        generator = torch.Generator().manual_seed(_step_seed(self.seed, self._state.step))
        pictures, labels = self._batch()
        pictures = augment(pictures, recipe, generator, progress)
        taught = self.teacher(pictures) if self.teacher is not None else None
        size = recipe.size(progress, self.network.image_size, self._multiple)
        set_binary(self.module, recipe.binary(progress))
        self.module.train()
        for group in self._optimiser.param_groups:
            group["lr"] = recipe.rate(progress)
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._compiled(resized(pictures, size), labels, taught)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise SourceError(f"the loss became {value} at step {self._state.step}: try a lower --rate")
        state = self._state
        state.loss = value if np.isnan(state.loss) else 0.99 * state.loss + 0.01 * value
        state.step += 1

    def _loss(self, pictures: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        recipe = self.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self.module(pictures).float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.smoothing)
        if taught is not None:
            share = recipe.teacher_share
            loss = (1 - share) * loss + share * distillation(logits, taught, recipe.temperature)
        pull = sum(((layer.threshold - recipe.gate_target) ** 2).sum() for layer in gated_layers(self.module))
        return loss + recipe.gate_pull * pull

    def _batch(self) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(self._state.step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.train))
        start = position * self.recipe.batch
        pictures, labels = self.train.take(self._order[1][start : start + self.recipe.batch])
        return torch.from_numpy(pictures).to(self.device), torch.from_numpy(labels).to(self.device)

    def _measure(self, bar: tqdm[Any]) -> None:
        state = self._state
        correct = quick_accuracy(self.module, self.model(), self.test, binary=self.recipe.binary(self.progress))
        gates = gates_open(self.module, self.test)
        report = Report(self.progress, self.epochs, state.seconds, state.loss, correct, gates)
        state.reports.append(report)
        if self._show:
            bar.write(
                f"{report.progress:4.0%}  {report.epochs:6.2f} epochs  {state.seconds / 60:6.1f} min  "
                f"loss {report.loss:.3f}  accuracy {correct:.2%}  gates open {gates:.0%}"
            )

    def _seconds_expected(self) -> float:
        """Of the whole run, from its budget alone: a resumed run is to compute as it began."""
        if self.budget.hours is not None:
            return 3600 * self.budget.hours
        pictures = (self.budget.epochs or 0) * len(self.train)
        return pictures * CPU_SECONDS.get(self.network.name, max(CPU_SECONDS.values()))

    def _channels_last(self) -> None:
        for parameter in self.module.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def _settings(self) -> dict[str, Any]:
        return {
            "network": self.network.name,
            "classes": list(self.train.classes),
            "seed": self.seed,
            "budget": asdict(self.budget),
            "recipe": self.recipe.as_dict(),
            "pictures": self._pictures,
            "teacher": None if self.teacher is None else getattr(self.teacher, "fingerprint", "another"),
        }

    def _save(self) -> None:
        save_checkpoint(
            self._path,
            {
                "settings": self._settings(),
                "state_dict": self.module.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "state": asdict(self._state),
            },
        )

    def _restore(self) -> None:
        saved = load_checkpoint(self._path)
        if saved.keys() != {"settings", "state_dict", "optimiser", "state"}:
            raise SourceError(f"{self._path}: expected a checkpoint of a training run, found another file of PyTorch's")
        check_settings(self._path, saved["settings"], self._settings())
        with restoring(self._path):
            self.module.load_state_dict(saved["state_dict"])
            self._optimiser.load_state_dict(saved["optimiser"])
            state = saved["state"]
            reports = [Report(**report) for report in state["reports"]]
            self._state = _State(int(state["step"]), float(state["seconds"]), float(state["loss"]), reports)


def _step_seed(seed: int, step: int) -> int:
    """A seed for one step that depends on nothing else, so that a resumed run goes on as it would have."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
