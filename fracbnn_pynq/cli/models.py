"""``fracbnn models``: list, show, card, fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..modelfile import Model
from ..models import MODELS, fetch_model, find_model, get_published
from .options import echo_json, echo_table, json_option


@click.group(invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the models there are; show, fetch one, or print its card."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models)


@command.command("list")
@json_option
def list_models(as_json: bool = False) -> None:
    """The models this package knows by name."""
    rows = [
        {
            "name": model.name,
            "network": model.network,
            "state": "bundled" if model.bundled else "fetched" if model.available else "not fetched",
            "summary": model.summary,
        }
        for model in MODELS.values()
    ]
    if as_json:
        echo_json(rows)
    else:
        echo_table([["NAME", "NETWORK", "STATE", ""], *(list(row.values()) for row in rows)])


@command.command("show")
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


@command.command("card")
@click.argument("name")
def card(name: str) -> None:
    """A published model's card: what it is, what it was trained on, how good it is and on which engine."""
    click.echo(get_published(name).card())


@command.command("fetch")
@click.argument("name")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Take the files from a folder, not the net.")
def fetch(name: str, source: Path | None) -> None:
    """Fetch a model from its authors, verify it, and convert it into a model file."""
    click.echo(fetch_model(name, source=source))


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
