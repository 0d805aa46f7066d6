"""``fracbnn overlays``: list, fetch, check; explain and build the project's own."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..cores import ENGINE_CLOCKS_MHZ
from ..doctor.preflight import Group, overlay_checks
from ..engine.registers import PIXELS
from ..files import cache_directory
from ..models import find_model
from ..published import engine as engine_overlay
from ..published.catalog import OVERLAYS, OverlayArtifact, get_overlay
from ..published.fetch import fetch, licence_notice, status
from . import FAILED
from .options import echo, echo_json, examples, json_option
from .report import as_data, echo_groups, has_error

pixels_option = click.option(
    "--pixels",
    type=click.Choice([str(number) for number in PIXELS]),
    default="2",
    show_default=True,
    help="X of the engine: pixels computed at once.",
)


@click.group(invoke_without_command=True, epilog=examples("fracbnn overlays", "fracbnn overlays fetch cifar10"))
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the overlays; fetch a published one, check those fetched, or build this project's own.

    The published ones are their authors' work and no part of this package: you fetch them yourself.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_overlays)


@command.command("list", epilog=examples("fracbnn overlays list --json"))
@json_option
def list_overlays(as_json: bool = False) -> None:
    """The overlays this package knows: state, part, clock, model inside, arithmetic, licence."""
    facts = [_facts(overlay) for overlay in OVERLAYS]
    if as_json:
        echo_json(facts)
        return
    _echo_engine()
    for fact in facts:
        state = fact["state"] if fact["state"] == "ok" else f"{fact['state']}: fracbnn overlays fetch {fact['network']}"
        echo(f"{fact['network']}: {fact['title']} ({state})")
        echo(f"  part        {fact['part']}, {fact['clock_mhz']:g} MHz")
        echo(f"  model       {fact['model'] or 'any: weights are streamed'}")
        echo(f"  arithmetic  {fact['arithmetic']}. {fact['note']}")
        echo(f"  licence     {fact['licence_notice']}")
        echo(f"  files       {fact['folder']}")


@command.command(
    "explain",
    epilog=examples("fracbnn overlays explain cifar10", "fracbnn overlays explain mine.safetensors --pixels 4"),
)
@click.argument("model")
@pixels_option
@click.option("--layer", metavar="NAME", help="One layer in full: descriptor, cycles, bytes.")
@json_option
def explain_model(model: str, pixels: str, layer: str | None, as_json: bool) -> None:
    """Say, layer by layer, what this project's own accelerator (--overlay engine) does with a model."""
    from ..engine import compile_model  # noqa: PLC0415 - only this subcommand compiles
    from ..engine.explain import explain, explain_layer  # noqa: PLC0415 - as above

    image = compile_model(find_model(model), pixels=int(pixels))
    if layer is not None:
        if as_json:
            raise click.UsageError("--layer is text for people: leave out --json")
        for line in explain_layer(image, layer).splitlines():
            echo(line)
        return
    found = explain(image)
    if as_json:
        echo_json({**asdict(found), "cycles": found.cycles, "bytes_read": found.bytes_read})
    else:
        click.echo(found.text(1e6 * engine_overlay.CLOCK_MHZ))


@command.command("build", epilog=examples("fracbnn overlays build engine", "fracbnn overlays build engine --clock 200"))
@click.argument("name", type=click.Choice([engine_overlay.NAME]))
@click.option(
    "--clock",
    type=click.Choice([f"{mhz:g}" for mhz in ENGINE_CLOCKS_MHZ]),
    default=f"{ENGINE_CLOCKS_MHZ[0]:g}",
    show_default=True,
    help="Clock in MHz that it must reach.",
)
@pixels_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for bitstream, hand-off file, log and reports.  [default: overlays/ of the checkout]",
)
def build(name: str, clock: str, pixels: str, out: Path | None) -> None:
    """Build this project's own accelerator from a checkout's sources, with Vivado: an hour or more.

    It runs on an x86-64 computer; the two files then go to the board.
    """
    from ..engine.sources import sources_folder  # noqa: PLC0415 - only this subcommand builds
    from ..engine_build import build_overlay  # noqa: PLC0415 - as above

    start = time.monotonic()

    def show(line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        echo(f"{minutes:3d}:{seconds:02d}  {line}")

    folder = out or sources_folder().parent
    bit = build_overlay(folder, clock_mhz=int(clock), pixels=int(pixels), show=show)
    echo(bit)
    echo(f"Copy it and {bit.with_suffix('.hwh').name} to the board: {engine_overlay.ON_BOARD}")


@command.command(
    "fetch", epilog=examples("fracbnn overlays fetch cifar10", "fracbnn overlays fetch imagenet --from FracNetHLS/")
)
@click.argument("name")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    help="Take the files from a folder, or a file and its neighbours, not from the net.",
)
@json_option
def fetch_overlay(name: str, source: Path | None, as_json: bool) -> None:
    """Fetch an overlay, a network's name (cifar10, imagenet) or the overlay's, and verify its files."""
    overlay = get_overlay(name)
    echo(f"{licence_notice(overlay)}.", err=True)
    files = fetch(overlay, source=source)
    if as_json:
        echo_json({"name": overlay.name, "files": {role: str(path) for role, path in files.items()}})
        return
    for path in files.values():
        echo(path)


@command.command("check", epilog=examples("fracbnn overlays check", "fracbnn overlays check cifar10 --json"))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Verify fetched overlays and whether their files fit each other and the Ultra96-V2. Default: all.

    Exit status 1 if something is wrong; an overlay that has not been fetched is wrong only if it was named.
    """
    overlays = [get_overlay(name) for name in names] or OVERLAYS
    groups = [Group(overlay.title, tuple(overlay_checks(overlay))) for overlay in overlays]
    missing = bool(names) and any(
        check.name == "files" and check.status != "ok" for group in groups for check in group.checks
    )
    failed = missing or has_error(groups)
    if as_json:
        echo_json({"ok": not failed, "groups": as_data(groups)})
    else:
        echo_groups(groups)
    if failed:
        sys.exit(FAILED)


def _echo_engine() -> None:
    path = engine_overlay.bitstream()
    click.echo(f"{engine_overlay.NAME}: {engine_overlay.TITLE} ({'ok' if engine_overlay.built() else 'not built'})")
    click.echo(f"  part        {engine_overlay.PART}, {engine_overlay.CLOCK_MHZ:g} MHz")
    click.echo(f"  files       {path.parent}")


def _facts(overlay: OverlayArtifact) -> dict[str, Any]:
    states = [state for _, state in status(overlay)]
    state = next((state for state in ("damaged", "missing") if state in states), "ok")
    return {
        "name": overlay.name,
        "network": overlay.network,
        "title": overlay.title,
        "state": state,
        "part": overlay.part,
        "clock_mhz": overlay.clock_mhz,
        "model": overlay.model,
        "arithmetic": overlay.arithmetic,
        "note": overlay.note,
        "licence": overlay.licence,
        "licence_notice": licence_notice(overlay),
        "repository": overlay.repository,
        "commit": overlay.commit,
        "folder": str(cache_directory() / overlay.name),
    }
