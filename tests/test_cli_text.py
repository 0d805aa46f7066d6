"""What the command prints of other people's names: always harmless, one line each, valid JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_support import Run
from training_support import archive_of_pictures, pictures

from fracbnn_pynq.model import random_model
from fracbnn_pynq.modelfile import save_model
from fracbnn_pynq.networks import CIFAR10
from fracbnn_pynq.text import printable

NASTY = "a\x1b[31m\n\u202eb\x9b"
SHOWN = r"a\x1b[31m\n\u202eb\x9b"


def harmless(text: str) -> bool:
    return all(printable(line) == line for line in text.split("\n"))


@pytest.fixture
def picture(cat: Path, tmp_path: Path) -> Path:
    path = tmp_path / f"{NASTY}.jpg"
    path.write_bytes(cat.read_bytes())
    return path


def test_file_names(picture: Path, run: Run):
    result = run("classify", picture)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("\n") == 1
    assert f"{SHOWN}.jpg: cat " in result.out
    assert harmless(result.out)
    (document,) = run("classify", "--json", picture).documents
    assert document["picture"] == str(picture)
    assert harmless(run("classify", "--json", picture).out)


def test_names_in_errors(tmp_path: Path, run: Run):
    path = tmp_path / f"{NASTY}.png"
    path.write_bytes(b"no picture")
    for arguments in (["classify", path], ["classify", tmp_path / NASTY], ["models", "show", path], ["evaluate", path]):
        result = run(*arguments)
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert SHOWN in result.err
        assert harmless(result.err + result.out)
    assert run("classify", "--json", path).documents[0]["picture"] == str(path)


def test_names_in_wrong_usage(run: Run):
    for arguments in (
        [NASTY],
        ["classify", f"--{NASTY}"],
        ["bench", "--backend", NASTY],
        ["import", "--network", NASTY],
    ):
        result = run(*arguments)
        assert result.code == 2
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
        assert SHOWN in result.err
        assert harmless(result.err)


def test_missing_choices_are_listed(run: Run):
    assert "imagenet" in run("import", "x.npz", "--out", "y.safetensors").err


def test_names_of_data_sets(tmp_path: Path, run: Run):
    images, labels = pictures(4)
    classes = ("automobile", "bird", "cat")
    archive = archive_of_pictures(tmp_path / f"{NASTY}.npz", 4, images=images, labels=labels, classes=np.array(classes))
    result = run("evaluate", archive, "--classes")
    assert (result.code, harmless(result.out)) == (0, True)
    assert f"{SHOWN}.npz  4" in result.out
    assert run("evaluate", archive, "--json").documents[0]["results"][0]["data"] == archive.name


def test_what_models_say_of_themselves(tmp_path: Path, run: Run):
    model = replace(random_model(CIFAR10), provenance={NASTY: [NASTY, float("nan")]})
    save_model(model, tmp_path / "m.safetensors")
    result = run("models", "show", tmp_path / "m.safetensors")
    assert (result.code, harmless(result.out)) == (0, True)
    result = run("models", "show", "--json", tmp_path / "m.safetensors")
    assert harmless(result.out)
    assert json.loads(result.out, parse_constant=pytest.fail)["provenance"] == {NASTY: [NASTY, None]}


def test_log_lines(tmp_path: Path):
    program = (
        f"import logging, sys; from fracbnn_pynq import cli; sys.argv[1:] = ['models']; cli.main(); "
        f"logging.getLogger('x').warning('%s', {NASTY!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == f"WARNING: {SHOWN}\n"


def test_names_that_are_no_text(cat: Path, tmp_path: Path, run: Run):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
    Path(os.fsdecode(path)).write_bytes(cat.read_bytes())
    assert r"\udcff\udcfe.jpg: cat " in run("classify", os.fsdecode(path)).out
    assert run("classify", "--json", os.fsdecode(path)).documents[0]["picture"] == os.fsdecode(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "arguments", [["models"], ["models", "list", "--json"], ["models", "show", "cifar10"], ["--help"]]
)
def test_output_that_cannot_be_written(arguments: list[str]):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr
