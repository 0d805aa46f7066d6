"""``fracbnn models``: list, show, card, fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import ModelError
from ..files import read_file
from ..model import Model
from ..modelfile import load_model
from ..models import MODELS, find_model, own_models
from ..published.models import fetch_model
from .options import echo, echo_json, echo_table, examples, json_option

_MAX_CARD = 1 << 20


@click.group(invoke_without_command=True, epilog=examples("fracbnn models", "fracbnn models card cifar10"))
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the models there are; show, fetch one, or print its card."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models)


@command.command("list", epilog=examples("fracbnn models list --json"))
@json_option
def list_models(as_json: bool = False) -> None:
    """The models this package knows by name, and your own model files in the cache's folder "models"."""
    rows = [
        {
            "name": model.name,
            "network": model.network,
            "state": "bundled" if model.bundled else "fetched" if model.available else "not fetched",
            "summary": model.summary,
        }
        for model in MODELS.values()
    ]
    rows += [_own(name, path) for name, path in own_models().items()]
    if as_json:
        echo_json(rows)
    else:
        echo_table([["NAME", "NETWORK", "STATE", ""], *(list(row.values()) for row in rows)])


@command.command("show", epilog=examples("fracbnn models show cifar10", "fracbnn models show mine.safetensors --json"))
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """What is in a model: a name or a file."""
    facts = _facts(find_model(model))
    if as_json:
        echo_json(facts)
        return
    provenance = facts.pop("provenance")
    classes = facts.pop("classes")
    shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    echo_table([[key, str(value)] for key, value in {**facts, "classes": f"{len(classes)}: {shown}"}.items()])
    echo_table([[key, str(value)] for key, value in provenance.items()] or [["provenance", "none stated"]])


@command.command("card", epilog=examples("fracbnn models card cifar10", "fracbnn models card mine.safetensors"))
@click.argument("model")
def card(model: str) -> None:
    """A model's card: what it is, what it was trained on, how good it is and on which engine.

    MODEL is a name or a file; of a file, the .md beside it is its card, else what the file itself says is printed.
    """
    if model in MODELS:
        click.echo(MODELS[model].card())
        return
    facts = _facts(find_model(model))
    beside = Path(own_models().get(model, model)).with_suffix(".md")
    if beside.is_file():
        for line in read_file(beside, _MAX_CARD, ModelError).decode(errors="replace").splitlines():
            echo(line)
        return
    rows = {**facts, **facts.pop("provenance"), "classes": ", ".join(facts["classes"])}
    lines = (
        f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in rows.items() if key != "provenance"
    )
    for line in (f"# Model card: `{beside.stem}`", "", "| | |", "|---|---|", *lines):
        echo(line)


@command.command(
    "fetch",
    epilog=examples("fracbnn models fetch cifar10-authors", "fracbnn models fetch cifar10-authors --from FracBNN/"),
)
@click.argument("name")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Take the files from a folder, not the net.")
def fetch(name: str, source: Path | None) -> None:
    """Fetch a model from its authors, verify it, and convert it into a model file."""
    echo(fetch_model(name, source=source))


def _own(name: str, path: Path) -> dict[str, str]:
    """A row of the list for a file in the cache."""
    try:
        model = load_model(path)
    except ModelError as error:
        return {"name": name, "network": "?", "state": "damaged", "summary": str(error)}
    summary = str(model.provenance.get("description") or "no description in the file")
    return {"name": name, "network": model.network.name, "state": "own", "summary": summary}


def _facts(model: Model) -> dict[str, Any]:
    weights = model.stem_weight.size * 8 + sum(layer.weight.size * 8 for layer in model.layers.values())
    return {
        "network": model.network.title,
        "input": f"{model.network.image_size}x{model.network.image_size} RGB",
        "gated layers": len(model.layers),
        "binary weights": weights,
        "classes": list(model.classes),
        "provenance": dict(model.provenance),
    }
