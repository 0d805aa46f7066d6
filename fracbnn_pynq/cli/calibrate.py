"""``fracbnn calibrate``."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import click
from tqdm import tqdm

from ..arithmetic import ARITHMETICS, IMAGENET_2021, PublishedArithmetic
from ..errors import ModelError
from ..files import write_file
from ..models import find_model
from .options import echo_json, examples, json_option

STOPPED = 130
_PATH = click.Path(path_type=Path)
_CORES = [name for name, arithmetic in ARITHMETICS.items() if isinstance(arithmetic, PublishedArithmetic)]


@click.command(
    epilog=examples(
        "fracbnn calibrate imagenet-authors pictures/ --out mine.safetensors",
        "fracbnn classify --model mine.safetensors --arithmetic imagenet-2021 photo.jpg",
    )
)
@click.argument("model")
@click.argument("pictures", type=_PATH, nargs=-1, required=True)
@click.option(
    "--arithmetic",
    type=click.Choice(_CORES),
    default=IMAGENET_2021.name,
    show_default=True,
    help="The published core to fit to.",
)
@click.option("--out", type=_PATH, required=True, help="The model file to write (.safetensors).")
@click.option("--difference", "difference_out", type=_PATH, help="Write what was changed, without weights, as well.")
@click.option("--held-out", type=click.FloatRange(0, 0.5), default=0.1, show_default=True, help="Share to measure on.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all]")
@click.option("--restart", is_flag=True, help="Begin anew, and throw an unfinished run's state away.")
@json_option
def command(  # each option is one parameter
    model: str,
    pictures: tuple[Path, ...],
    arithmetic: str,
    out: Path,
    difference_out: Path | None,
    held_out: float,
    seed: int,
    threads: int | None,
    restart: bool,
    as_json: bool,
) -> None:
    """Fit a model's parameters to what a published core computes.

    MODEL is an ImageNet model's name or file, PICTURES are unlabelled: files, folders, patterns or .npz. 30 are enough,
    300 better. A run that was stopped goes on where it was when the same command is given again; its state lies beside
    the model file, in a folder that ends in .calibration.
    """
    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out: expected a name that ends in .safetensors, found {out.name!r}")
    from ..calibration import calibrate  # noqa: PLC0415 - only this command needs it
    from ..calibration.pictures import read_pictures  # noqa: PLC0415
    from ..calibration.run import check_model  # noqa: PLC0415
    from ..difference import save_difference  # noqa: PLC0415
    from ..modelfile import save_model  # noqa: PLC0415

    given = find_model(model)
    check_model(given, arithmetic)
    folder = out.with_name(out.name + ".calibration")
    _check_writable(out, folder, restart=restart)
    images, wrong = read_pictures(pictures, given.network)
    for line in wrong:
        click.echo(f"left out: {line}", err=True)
    with tqdm(total=1.0, bar_format="{l_bar}{bar}| {elapsed}<{remaining} {desc}", disable=None) as bar:

        def progress(what: str, share: float) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update(share - bar.n)

        try:
            found = calibrate(
                given, images, held_out=held_out, seed=seed, threads=threads, folder=folder, progress=progress
            )
        except KeyboardInterrupt:
            click.echo("\nstopped; the same command goes on from here", err=True)
            sys.exit(STOPPED)
    save_model(found.model, out)
    if difference_out is not None:
        save_difference(found.difference, difference_out)
    picture = out.with_suffix(".png") if found.report.draw(out.with_suffix(".png")) else None
    card = out.with_suffix(".md")
    write_file(card, found.report.card(out.stem, model, picture).encode(), ModelError)
    shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        echo_json({"model": str(out), "left_out": wrong, **found.report.data()})
        return
    for line in [*found.report.lines(), *found.report.layer_lines()]:
        click.echo(line)
    click.echo(f"{out}: the model; {card.name}: its card")
    if picture is None:
        click.echo("no picture was drawn: Matplotlib is not installed (pip install matplotlib)", err=True)


def _check_writable(out: Path, folder: Path, *, restart: bool) -> None:
    """Fail before the work, not after it."""
    if out.exists() and not out.is_file():
        raise ModelError(f"cannot write {out}: expected a file or a free name, found a folder or a device")
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / "probe"
        write_file(probe, b"", ModelError)
        probe.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless an unfinished run's state is in it
    except OSError as error:
        raise ModelError(f"cannot write {out}: {error.strerror}") from None
