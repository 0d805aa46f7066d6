"""``fracbnn train``."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import SourceError
from ..extras import install_line
from ..models import find_model
from ..networks import NETWORKS, Network, get_network
from .options import echo, examples

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..training.recipe import Recipe

Function = TypeVar("Function", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)
_ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
_NOT_NEGATIVE = click.FloatRange(min=0)
STOPPED = 130


def _recipe_options(function: Function) -> Function:
    """Options that replace a value of the recipe, named as its fields are."""
    options = (
        click.option("--batch", type=click.IntRange(min=2), help="Pictures a step. [default: 64]"),
        click.option("--rate", "peak_rate", type=_ABOVE_ZERO, help="Peak learning rate. [default: 0.002]"),
        click.option("--float-until", type=click.FloatRange(0, 0.9), help="Share of the run with real weights."),
        click.option("--gate-target", type=float, help="Thresholds are pulled there: higher closes more gates."),
        click.option("--gate-pull", type=_NOT_NEGATIVE, help="How hard they are pulled. [default: 0.001]"),
        click.option("--teacher-share", type=click.FloatRange(0, 1), help="The teacher's share. [default: 0.5]"),
        click.option("--temperature", type=_ABOVE_ZERO, help="Of the teacher's softmax. [default: 3]"),
        click.option("--smoothing", type=click.FloatRange(0, 1, max_open=True), help="Of labels. [default: 0]"),
        click.option("--shift", type=click.FloatRange(0, 0.5), help="Pictures are moved by up to this share."),
        click.option("--zoom", type=click.FloatRange(0.1, 1), help="Smallest share of the edge a crop keeps."),
        click.option("--flip/--no-flip", default=None, help="Mirror pictures at random. [default: flip]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    epilog=examples(
        "fracbnn train pictures/ --out mine.safetensors --hours 2",
        "fracbnn train pictures/ --out mine.safetensors --epochs 10 --initial cifar10",
    )
)
@click.argument("data", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="The model file to write (.safetensors).")
@click.option(
    "--network", type=click.Choice(list(NETWORKS)), default="cifar10", show_default=True, help="The shape to train."
)
@click.option("--hours", type=_ABOVE_ZERO, help="How long to train.")
@click.option("--epochs", type=_ABOVE_ZERO, help="Or how many times to go through the pictures.")
@click.option("--test", type=_PATH, help="Labelled pictures to measure on. [default: a random part of DATA]")
@click.option("--held-out", type=click.FloatRange(0.001, 0.5), default=0.1, show_default=True, help="That part.")
@click.option("--initial", help="What to start from: a model's name or file, parameters (.npz, .pt), a checkpoint.")
@click.option("--teacher", help="A model to learn from as well: its name (see 'fracbnn models') or file.")
@_recipe_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@click.option("--device", help="A PyTorch device. [default: a GPU if there is one, else the CPU]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all]")
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    help="Of the convolutions' inputs. [default: bfloat16 where the device has instructions for it]",
)
@click.option(
    "--compile/--no-compile", "compiled", default=None, help="Compile the step. [default: in runs so long that it pays]"
)
@click.option("--restart", is_flag=True, help="Begin anew, and throw an unfinished run's state away.")
def command(  # each option is one parameter
    data: Path,
    out: Path,
    network: str,
    hours: float | None,
    epochs: float | None,
    test: Path | None,
    held_out: float,
    initial: str | None,
    teacher: str | None,
    seed: int,
    device: str | None,
    threads: int | None,
    precision: str | None,
    compiled: bool | None,
    restart: bool,
    **changes: Any,
) -> None:
    """Train a network on labelled pictures.

    DATA is a folder with one folder of pictures per class, a folder with CIFAR-10's own batch files, or an .npz. A run
    that was stopped or killed goes on where it was when the same command is given again; its state lies beside the
    model file, in a folder that ends in .training.
    """
    if (hours is None) == (epochs is None):
        raise click.UsageError("give either --hours or --epochs")
    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out: expected a name that ends in .safetensors, found {out.name!r}")
    try:
        import torch  # noqa: PLC0415 - an optional, large dependency
    except ImportError:
        advice = (
            f"install it with: {install_line('train')}. Without an NVIDIA GPU choose PyTorch's CPU build first, which "
            "is far smaller: https://pytorch.org/get-started/locally has the line"
        )
        raise SourceError("training needs PyTorch", advice=advice) from None
    from ..training.devices import describe_device  # noqa: PLC0415 - needs PyTorch
    from ..training.export import FEWEST_STEPS, export, too_few_steps  # noqa: PLC0415
    from ..training.run import Budget, TrainingRun  # noqa: PLC0415
    from ..training.teacher import model_teacher  # noqa: PLC0415

    if threads is not None:
        torch.set_num_threads(threads)
    kind = get_network(network)
    recipe = _recipe(from_trained=initial is not None, changes=changes)
    folder = out.with_name(out.name + ".training")
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    train, measured = _data(data, test, held_out, seed, kind, folder)
    run = TrainingRun(
        kind,
        train,
        measured,
        folder,
        recipe=recipe,
        budget=Budget(epochs, hours),
        seed=seed,
        teacher=None if teacher is None else model_teacher(find_model(teacher), kind, train.classes),
        device=_device(device),
        compiled=compiled,
        precision=precision,
        progress=True,
    )
    echo(f"training on {describe_device(run.device)}, in {run.precision}", err=True)
    if run.steps_planned is not None and run.steps_planned < FEWEST_STEPS:
        echo(too_few_steps(run.steps_planned), err=True)  # now, while it can be changed
    if run.resumed:
        echo(f"going on at {run.progress:.0%}", err=True)
    elif initial is not None and not run.start_from(initial):
        echo(f"{initial} has other classes: its last layer is learnt anew", err=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: run.stop())
    if not run.run():
        echo("stopped; the same command goes on from here", err=True)
        sys.exit(STOPPED)
    for line in export(run, out, initial=initial, teacher=teacher).lines():
        echo(line)
    for pictures in folder.glob("*.npy"):
        pictures.unlink()  # large, and quickly made again
    echo(f"{out}: the model; {out.with_suffix('.md').name}: its card")


def _device(name: str | None) -> str:
    """What PyTorch is to compute on."""
    import torch  # noqa: PLC0415

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (AssertionError, RuntimeError) as error:
        raise click.UsageError(f"--device: PyTorch cannot use {name!r} here ({str(error).splitlines()[0]})") from None
    return name


def _recipe(*, from_trained: bool, changes: dict[str, Any]) -> Recipe:
    from ..training.recipe import Recipe  # noqa: PLC0415

    # Trained parameters need no gentle start: binary at once, on whole pictures, at a lower rate.
    recipe = Recipe(float_until=0.0, sizes=((0.0, 1.0),), peak_rate=1e-3) if from_trained else Recipe()
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def _data(
    data: Path, test: Path | None, held_out: float, seed: int, network: Network, folder: Path
) -> tuple[Dataset, Dataset]:
    """Pictures to train on and to measure on."""
    from ..datasets import decode, open_source, split  # noqa: PLC0415

    source = open_source(data)
    other = None if test is None else open_source(test)
    if other is not None:
        other = replace(other, labels=other.labels_for(source.classes), classes=source.classes)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise SourceError(f"cannot make the folder {folder}: {error.strerror}") from None
    train = decode(source, network, folder / "train.npy")
    return split(train, held_out, seed) if other is None else (train, decode(other, network, folder / "test.npy"))
