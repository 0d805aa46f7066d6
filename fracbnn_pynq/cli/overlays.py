"""``fracbnn overlays``: list, fetch, check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..board.catalog import OVERLAYS, OverlayArtifact, get_overlay
from ..board.fetch import cache_directory, fetch, licence_notice, status
from ..board.preflight import Group, overlay_checks
from . import FAILED
from .options import echo_json, json_option
from .report import as_data, echo_groups, has_error


@click.group(invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the published overlays; fetch one, or check those fetched.

    They are their authors' work and no part of this package: you fetch them yourself.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_overlays)


@command.command("list")
@json_option
def list_overlays(as_json: bool = False) -> None:
    """The overlays this package knows: state, part, clock, model inside, arithmetic, licence."""
    facts = [_facts(overlay) for overlay in OVERLAYS]
    if as_json:
        echo_json(facts)
        return
    for fact in facts:
        state = fact["state"] if fact["state"] == "ok" else f"{fact['state']}: fracbnn overlays fetch {fact['network']}"
        click.echo(f"{fact['network']}: {fact['title']} ({state})")
        click.echo(f"  part        {fact['part']}, {fact['clock_mhz']:g} MHz")
        click.echo(f"  model       {fact['model'] or 'any: weights are streamed'}")
        click.echo(f"  arithmetic  {fact['arithmetic']}. {fact['note']}")
        click.echo(f"  licence     {fact['licence_notice']}")
        click.echo(f"  files       {fact['folder']}")


@command.command("fetch")
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
    click.echo(f"{licence_notice(overlay)}.", err=True)
    files = fetch(overlay, source=source)
    if as_json:
        echo_json({"name": overlay.name, "files": {role: str(path) for role, path in files.items()}})
        return
    for path in files.values():
        click.echo(path)


@command.command("check")
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


def _facts(overlay: OverlayArtifact) -> dict[str, Any]:
    states = [state for _, state in status(overlay)]
    state = next((state for state in ("damaged", "missing") if state in states), "ok")
    return {
        "name": overlay.name,
        "network": overlay.network,
        "title": overlay.title,
        "state": state,
        "part": f"{overlay.part}-{overlay.package}",
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
