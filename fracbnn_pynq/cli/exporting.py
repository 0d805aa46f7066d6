"""``fracbnn export``."""

from __future__ import annotations

from pathlib import Path

import click

from ..exporters import FORMATS, export_model
from ..models import find_model
from .options import echo, examples


@click.command(
    epilog=examples("fracbnn export cifar10 --out cifar10.onnx", "fracbnn export mine.safetensors --out m.npz")
)
@click.argument("model")
@click.option("--to", "kind", type=click.Choice(FORMATS), help="The format. [default: by the ending of --out]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
def command(model: str, kind: str | None, out: Path) -> None:
    """Write a model in a format that others read.

    MODEL is a model's name (see 'fracbnn models') or file.

    \b
    onnx  the network in standard ONNX operators, uint8 pictures to logits, with the bits of the faithful arithmetic
          (equal in ONNX Runtime's CPU provider)
    npz   its parameters under the authors' names, as 'fracbnn import' takes them
    """
    kind = kind or out.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise click.UsageError(f"--out: expected a name that ends in .onnx or .npz, or --to, found {out.name!r}")
    chosen = find_model(model)
    export_model(chosen, out, kind)
    echo(f"{out}: {chosen.network.title} as {kind}, {out.stat().st_size} bytes")
