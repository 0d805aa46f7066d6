"""The ``fracbnn`` command: one module per subcommand, loaded when it is used."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
from importlib import import_module

import click

from .._version import __version__
from ..errors import FracBNNError, ModelError, PictureError, SourceError, UnknownNameError
from ..text import PrintableFormatter, printable
from .options import examples

COMMANDS = {
    "classify": ("classify", "Say what is on pictures."),
    "camera": ("camera", "Say what a camera or a video shows, as it comes."),
    "serve": ("serve", "Classify over HTTP."),
    "models": ("models", "List, show, fetch models."),
    "evaluate": ("evaluate", "Say how often a model is right about labelled pictures."),
    "bulk": ("bulk", "Label an archive of pictures, on all cores or on a cluster."),
    "reproduce": ("reproduce", "Measure the paper's figures here."),
    "train": ("train", "Train a network on your own pictures."),
    "calibrate": ("calibrate", "Fit a model to what a published core computes."),
    "import": ("importing", "Convert a trained network into a model file."),
    "export": ("exporting", "Write a model as ONNX or as named parameters."),
    "bench": ("bench", "Measure how fast a model runs here."),
    "overlays": ("overlays", "List, fetch, check the published overlays; build the engine."),
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


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("fracbnn classify cat.jpg", "fracbnn -v doctor", "fracbnn classify --help"),
)
@click.version_option(__version__, help="Show the version.")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what is done and why.")
def group(verbose: bool) -> None:
    """FracBNN binary neural networks: on the Ultra96-V2, on a simulated board, on the CPU."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


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
        _show(error)
        sys.exit(error.exit_code)
    except FracBNNError as error:
        _say(f"error: {error}")
        at_fault = isinstance(error, PictureError | ModelError | SourceError | UnknownNameError)
        sys.exit(INPUT_AT_FAULT if at_fault else FAILED)
    except OSError as error:
        # The reader of our output has gone (``| head``), or the disk is full: what else can fail says so in words of
        # its own.
        if not isinstance(error, BrokenPipeError):
            _say(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        sys.exit(FAILED)
    finally:
        _flush()


def _flush() -> None:
    """Write what waits for standard output now, where it can be said that it failed; Python would say it at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Nothing more is to go there, nor may Python try it again.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        if not isinstance(error, BrokenPipeError):
            _say(f"error: cannot write to standard output: {error.strerror}")
        sys.exit(FAILED)
    except ValueError:  # closed
        return


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def _show(error: click.ClickException) -> None:
    """In one line, as all errors; a group that was given no command shows its help instead."""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split())
    if context is None:
        _say(f"error: {message}")
    elif type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and later
        click.echo(context.get_help(), err=True)
    else:
        _say(f"error: {message.rstrip('.')}; see '{context.command_path} --help'")
