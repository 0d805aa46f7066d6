"""The ``fracbnn`` command: one module per subcommand, loaded when it is used."""

from __future__ import annotations

import io
import logging
import signal
import sys
from importlib import import_module

import click

from .._version import __version__
from ..errors import DownloadError, FracBNNError, ModelError, PictureError, SourceError

COMMANDS = {
    "classify": ("classify", "Say what is on pictures."),
    "camera": ("camera", "Say what a camera or a video shows, as it comes."),
    "serve": ("serve", "Classify over HTTP."),
    "models": ("models", "List, show, fetch models."),
    "evaluate": ("evaluate", "Say how often a model is right about labelled pictures."),
    "train": ("train", "Train a network on your own pictures."),
    "import": ("importing", "Convert a trained network into a model file."),
    "bench": ("bench", "Measure how fast a model runs here."),
    "overlays": ("overlays", "List, fetch, check the published overlays."),
    "doctor": ("doctor", "Say what works here, and what a board would need."),
}
INPUT_AT_FAULT = 2
FAILED = 1
TERMINATED = 128 + signal.SIGTERM


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when that subcommand is run or its help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f".{COMMANDS[cmd_name][0]}", __name__).command
        assert isinstance(command, click.Command)  # noqa: S101 - for the type checker
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, without importing any subcommand."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Say more about what is done and why.")
def group(verbose: bool) -> None:
    """FracBNN binary neural networks: on the Ultra96-V2, on a simulated board, on the CPU."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s: %(message)s")


def main() -> None:
    """Entry point: errors of this package become one line and an exit code, 2 where the input is at fault.

    SIGTERM ends a command as an exception would, so that nothing stays behind: a board that is held, temporary files.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        _run()
    finally:
        signal.signal(signal.SIGTERM, before)


def _run() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        group(prog_name="fracbnn", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FracBNNError as error:
        click.echo(f"error: {error}", err=True)
        at_fault = isinstance(error, PictureError | ModelError | SourceError) and not isinstance(error, DownloadError)
        sys.exit(INPUT_AT_FAULT if at_fault else FAILED)
    except BrokenPipeError:
        # The reader of our output has gone (``| head``). Point stdout elsewhere, or Python complains when it exits.
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115
        sys.exit(FAILED)
