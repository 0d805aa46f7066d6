"""Every command: its help, its examples, and what it says of wrong usage and of what is not there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli_support import Run

from fracbnn_pynq import cli


def walk(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands with the words that name them, groups before what is in them."""
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*names, name))


COMMANDS = dict(walk(cli.group))
every_command = pytest.mark.parametrize("names", COMMANDS, ids=lambda names: " ".join(names) or "fracbnn")


def example_lines(command: click.Command) -> list[str]:
    return [line.strip() for line in (command.epilog or "").splitlines()[2:]]


@every_command
def test_every_option_is_described(names: tuple[str, ...]):
    options = [each for each in COMMANDS[names].params if isinstance(each, click.Option) and not each.hidden]
    assert [each.name for each in options if not each.help] == []


@every_command
def test_every_help_has_examples_that_the_command_understands(
    names: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = example_lines(COMMANDS[names])
    assert lines
    shown = run(*names, "--help")
    assert (shown.code, shown.err) == (0, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token.txt").write_text("t" * 32)  # the one file that click itself looks for
    for line in lines:
        assert f"    {line}\n" in shown.out  # as it is: not wrapped
        program, *words = shlex.split(line.partition(" <")[0])
        assert program == "fracbnn"
        command: click.Command = cli.group
        # Commands keep the options of the first context that parses for them, -h among them.
        above = click.Context(cli.group, info_name="fracbnn", **cli.group.context_settings)
        while words and isinstance(command, click.Group):
            if words[0] == "-v":
                words = words[1:]
                continue
            found = command.get_command(click.Context(command), words[0])
            assert found is not None
            command, words = found, words[1:]
        if words != ["--help"]:
            command.make_context(command.name, words, parent=above)


@every_command
def test_wrong_usage_is_one_line(names: tuple[str, ...], run: Run):
    found = run(*names, "--no-such-option")
    assert (found.code, found.out) == (2, "")
    expected = rf"error: No such option:? .*--no-such-option.*; see '{' '.join(['fracbnn', *names])} --help'\n"
    assert re.fullmatch(expected, found.err)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["classify", "none.jpg"], 2, "no such file"),
        (["classify", "https://example.org/cat.jpg"], 2, "https://example.org/cat.jpg: .*found a URL; download it"),
        (["classify", "--model", "none.safetensors", "none.jpg"], 2, "No such file|no such file"),
        (["evaluate", "none"], 2, "no such file"),
        (["evaluate", "https://example.org/pictures"], 2, "https://example.org/pictures: .*found a URL"),
        (["train", "none", "--out", "m.safetensors", "--epochs", "1"], 2, "no such file|PyTorch"),
        (["calibrate", "none", "none.jpg", "--out", "m.safetensors"], 2, "unknown model 'none'"),
        (["import", "none.npz", "--network", "cifar10", "--out", "m.safetensors"], 2, "No such file"),
        (["models", "show", "none"], 2, "unknown model 'none'"),
        (["models", "card", "none.safetensors"], 2, "No such file"),
        (["models", "fetch", "none"], 2, "unknown model 'none'"),
        (["overlays", "fetch", "none"], 2, "no published overlay for 'none'"),
        (["overlays", "check", "none"], 2, "no published overlay for 'none'"),
        (["overlays", "explain", "none"], 2, "unknown model 'none'"),
        (["bench", "--model", "none"], 2, "unknown model 'none'"),
        (["overlays", "fetch", "cifar10", "--from", "."], 1, r"\.bit.*\.hwh.*found no such files"),
        (["models", "fetch", "cifar10-authors", "--from", "."], 1, r"\.h.*, .*\.h in \., found no such files"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_there_is_said_in_one_line(
    arguments: list[str], code: int, message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path / "cache"))
    found = run(*arguments)
    assert (found.code, found.out) == (code, "")
    errors = [line for line in found.err.splitlines() if "no part of this package" not in line]  # the licence's line
    assert len(errors) == 1
    assert re.match(f"error: .*(?:{message})", errors[0])


@pytest.mark.parametrize("arguments", [["classify", "x.jpg"], ["doctor"]], ids=" ".join)
def test_unknown_names_in_the_environment(arguments: list[str], run: Run, cat: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRACBNN_BOARD", "nonsense")
    found = run(*(cat if word == "x.jpg" else word for word in arguments))
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: ")
    assert len(found.err.splitlines()) == 1


def test_a_port_in_use(run: Run):
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = run("serve", "--port", port)
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use; ")
    assert len(found.err.splitlines()) == 1


def test_verbose_says_which_model_and_engine(cat: Path):
    script = "from fracbnn_pynq.cli import main; main()"
    command = [sys.executable, "-c", script, "-v", "classify", str(cat)]
    found = subprocess.run(command, capture_output=True, timeout=60, check=True, text=True)
    assert re.search("^INFO: model cifar10: ", found.stderr, re.MULTILINE)
    assert re.search("^(INFO: backend |WARNING: running the slow)", found.stderr, re.MULTILINE)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str):
    def complete(instruction: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()"],
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, "_FRACBNN_COMPLETE": f"{shell}_{instruction}", **variables},
            text=True,
        )

    if shell != "bash" or shutil.which("bash"):  # click asks bash for its version
        assert "_FRACBNN_COMPLETE" in complete("source").stdout
    found = complete("complete", COMP_WORDS="fracbnn cl", COMP_CWORD="cl" if shell == "fish" else "1")
    assert (found.returncode, found.stderr) == (0, "")
    assert "classify" in found.stdout
