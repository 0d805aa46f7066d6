"""``fracbnn import``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import SourceError
from ..files import read_file
from ..importers import import_model
from ..modelfile import save_model
from ..networks import NETWORKS, get_network
from .options import echo, examples

MAX_TEXT = 1 << 20


@click.command(
    epilog=examples(
        "fracbnn import trained.npz --network cifar10 --out mine.safetensors",
        "fracbnn import checkpoint.pt --network cifar10 --classes names.txt --out mine.safetensors",
    )
)
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE...")
@click.option("--network", type=click.Choice(list(NETWORKS)), required=True, help="The shape that was trained.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The model file to write (.safetensors).")
@click.option("--classes", type=click.Path(path_type=Path), help="Class names, one a line. [default: the data set's]")
@click.option("--provenance", help='A JSON object kept in the file, for instance {"licence": "..."}.')
def command(sources: tuple[Path, ...], network: str, out: Path, classes: Path | None, provenance: str | None) -> None:
    """Convert a trained network into a model file.

    SOURCE is the two .h files of the authors' CIFAR-10 release, the five .bin files of their ImageNet release, or one
    .npz, .safetensors or PyTorch checkpoint with parameters under the authors' names.
    """
    names = None
    if classes is not None:
        names = _parse_classes(classes)
    model = import_model(list(sources), get_network(network), provenance=_parse_provenance(provenance), classes=names)
    save_model(model, out)
    echo(f"{out}: {model.network.title}, {out.stat().st_size} bytes")


def _parse_classes(path: Path) -> tuple[str, ...]:
    try:
        text = read_file(path, MAX_TEXT, SourceError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: expected class names in UTF-8, one a line, found other bytes ({error})") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _parse_provenance(text: str | None) -> dict[str, object]:
    if text is None:
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"--provenance: expected a JSON object, found something else ({error})") from None
    if not isinstance(data, dict):
        raise SourceError(f"--provenance: expected a JSON object, found {type(data).__name__}")
    return data
