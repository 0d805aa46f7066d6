"""The ``fracbnn`` command: what it prints, its exit codes, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_support import Run
from PIL import Image

from fracbnn_pynq import __version__, cli, native
from fracbnn_pynq.model import random_model
from fracbnn_pynq.modelfile import load_model, save_model
from fracbnn_pynq.models import MODELS
from fracbnn_pynq.networks import CIFAR10

COMMAND = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()"]


@pytest.fixture(autouse=True)
def plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FRACBNN_MODEL", "FRACBNN_BACKEND", "FRACBNN_BOARD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path / "cache"))


def process(*arguments: object, data: bytes | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def folder(tmp_path: Path, cat: Path) -> Path:
    """Good pictures and bad files."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    shutil.copy(cat, folder / "cat.jpg")
    shutil.copy(cat.parent / "rocket.jpg", folder / "below" / "rocket.jpg")
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    return folder


@pytest.fixture
def bad(tmp_path: Path, cat: Path) -> Path:
    """Files that are no pictures, by names that say they are."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "text.png").write_text("I am not a picture\n")
    (folder / "empty.png").touch()
    (folder / "half.jpg").write_bytes(cat.read_bytes()[:5000])
    return folder


# classify


def test_one_picture(run: Run, cat: Path):
    code, out, err = run("classify", cat)
    assert (code, err) == (0, "")
    name, rest = out.split(": ", 1)
    assert name == str(cat)
    assert rest.startswith("cat ")
    assert rest.count("%") == 5
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("top", [1, 3, 10, 99])
def test_top(top: int, run: Run, cat: Path):
    (document,) = run("classify", "--json", "--top", top, cat).documents
    assert len(document["top"]) == min(top, 10)
    assert run("classify", "--top", top, cat).out.count("%") == min(top, 10)


def test_json_lines(run: Run, folder: Path):
    result = run("classify", "--json", folder)
    assert (result.code, result.err) == (0, "")
    assert [Path(document["picture"]).name for document in result.documents] == ["rocket.jpg", "cat.jpg", "dot.png"]
    for document in result.documents:
        assert document.keys() == {"picture", "label", "score", "top", "backend", "arithmetic"}
        assert document["top"][0] == {"label": document["label"], "probability": document["score"]}
        probabilities = [entry["probability"] for entry in document["top"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert document["arithmetic"] == "faithful"


def test_what_is_given_twice_is_listed_twice(run: Run, folder: Path):
    everything = [folder, folder / "**/*.jpg", folder / "cat.jpg", folder / "cat.jpg"]
    found = [Path(document["picture"]).name for document in run("classify", "--json", *everything).documents]
    assert found == ["rocket.jpg", "cat.jpg", "dot.png", "rocket.jpg", "cat.jpg", "cat.jpg", "cat.jpg"] or found == [
        *("rocket.jpg", "cat.jpg", "dot.png", "cat.jpg", "rocket.jpg", "cat.jpg", "cat.jpg")
    ]
    assert len(run("classify", folder / "*.jpg").out.splitlines()) == 1


def test_more_pictures_than_a_batch(run: Run, folder: Path, tmp_path: Path):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(70):
        os.symlink(folder / ("cat.jpg" if number % 3 else "dot.png"), many / f"{number:02}.jpg")
    documents = run("classify", "--json", many).documents
    assert [Path(document["picture"]).stem for document in documents] == [f"{number:02}" for number in range(70)]
    dot, cat = (run("classify", "--json", folder / name).documents[0]["top"] for name in ("dot.png", "cat.jpg"))
    assert dot != cat
    assert [document["top"] for document in documents] == [cat if number % 3 else dot for number in range(70)]


def test_good_pictures_are_done_among_bad_ones(run: Run, folder: Path, bad: Path):
    result = run("classify", bad, folder / "cat.jpg", bad / "missing.jpg")
    assert result.code == 2
    assert result.out.startswith(f"{folder / 'cat.jpg'}: cat")
    assert len(result.out.splitlines()) == 1
    errors = result.err.splitlines()
    assert len(errors) == 4
    assert all(line.startswith("error: ") for line in errors)
    for name in ("text.png", "empty.png", "half.jpg", "missing.jpg"):
        assert sum(name in line for line in errors) == 1


def test_good_pictures_are_done_among_bad_ones_in_json(run: Run, folder: Path, bad: Path):
    result = run("classify", "--json", bad / "text.png", folder / "cat.jpg", folder / "none" / "*.jpg")
    assert (result.code, result.err) == (2, "")
    by_name = {Path(document["picture"]).name: document for document in result.documents}
    assert by_name["cat.jpg"]["label"] == "cat"
    assert by_name["text.png"].keys() == by_name["*.jpg"].keys() == {"picture", "error"}


@pytest.mark.parametrize("name", ["text.png", "empty.png", "half.jpg", "missing.jpg", "folder", "*.jpeg"])
def test_one_bad_picture(name: str, run: Run, bad: Path):
    (bad / "folder").mkdir()
    code, out, err = run("classify", bad / name)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert name in err
    assert len(err.splitlines()) == 1


def test_standard_input(cat: Path):
    found = process("classify", "--json", "-", data=cat.read_bytes())
    assert (found.returncode, found.stderr) == (0, b"")
    document = json.loads(found.stdout)
    assert (document["picture"], document["label"]) == ("-", "cat")
    for data in (b"", b"some text"):
        found = process("classify", "-", data=data)
        assert (found.returncode, found.stdout) == (2, b"")
        assert found.stderr.startswith(b"error: ")
        assert len(found.stderr.splitlines()) == 1


@pytest.mark.skipif(not native.available(), reason="native kernels were not built")
def test_engines_print_the_same(run: Run, folder: Path):
    outputs = [run("classify", "--top", 10, "--backend", backend, folder).out for backend in ("cpu", "reference")]
    assert outputs[0] == outputs[1]
    assert outputs[0]


def test_other_models_and_arithmetics(run: Run, cat: Path, tmp_path: Path):
    save_model(random_model(CIFAR10, 3), tmp_path / "m.safetensors")
    (document,) = run("classify", "--json", "--model", tmp_path / "m.safetensors", cat).documents
    assert document["label"].startswith("class ")
    (document,) = run("classify", "--json", "--arithmetic", "cifar10-2020", "--threads", 1, cat).documents
    assert document["arithmetic"] == "cifar10-2020"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "resnet"], 2, "error: unknown model 'resnet': expected cifar10, "),
        (["--model", "imagenet-authors"], 2, "run 'fracbnn models fetch imagenet-authors'"),
        (["--model", "no/such.safetensors"], 2, "error: cannot read model file no/such.safetensors: No such file"),
        (["--arithmetic", "imagenet-2021"], 1, "error: arithmetic for CIFAR-10"),
        (["--backend", "cpu", "--arithmetic", "float"], 1, "needs backend 'reference'"),
        (["--backend", "gpu"], 2, "'gpu' is not one of"),
        (["--top", "0"], 2, "0 is not in the range"),
        (["--threads", "0"], 2, "0 is not in the range"),
        (["--nonsense"], 2, "No such option"),
    ],
)
def test_wrong_options(arguments: list[str], code: int, message: str, run: Run, cat: Path):
    result = run("classify", *arguments, cat)
    assert (result.code, result.out) == (code, "")
    assert message in result.err


def test_damaged_models(run: Run, cat: Path, tmp_path: Path):
    content = bytearray(MODELS["cifar10"].path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(content)
    code, out, err = run("classify", "--model", tmp_path / "m.safetensors", cat)
    assert (code, out) == (2, "")
    assert err.endswith("the checksum does not match: the file is damaged; fetch or export it again\n")
    assert len(err.splitlines()) == 1


NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_that_are_not_text(encoding: str, tmp_path: Path, cat: Path):
    path = tmp_path / NOT_UTF8
    try:
        shutil.copy(cat, path)
    except OSError:
        pytest.skip("this file system takes names of valid UTF-8 only")
    for arguments in ([], ["--json"]):
        found = process("classify", *arguments, path, path.with_suffix(".none"), PYTHONIOENCODING=encoding)
        assert found.returncode == 2
        assert b"Traceback" not in found.stderr
        assert b"cat" in found.stdout
    wrong, good = (json.loads(line) for line in found.stdout.decode().splitlines())
    assert good["label"] == "cat"
    assert "error" in wrong
    if encoding == "utf-8":
        assert good["picture"] == str(path)


# models


def test_models_list(run: Run):
    result = run("models")
    assert result == run("models", "list")
    assert [line.split()[0] for line in result.out.splitlines()] == ["NAME", *MODELS]
    (rows,) = run("models", "list", "--json").documents
    assert [row["name"] for row in rows] == list(MODELS)
    assert [row["state"] for row in rows] == ["bundled"] + ["not fetched"] * (len(MODELS) - 1)


def test_models_show(run: Run):
    (facts,) = run("models", "show", "cifar10", "--json").documents
    assert facts["classes"][3] == "cat"
    assert facts["provenance"]["licence"] == "BSD-3-Clause"
    assert facts["gated layers"] == 18
    text = run("models", "show", "cifar10").out
    assert "32x32 RGB" in text
    assert "10: airplane, automobile" in text


def test_models_show_of_a_hostile_file(run: Run, tmp_path: Path):
    model = random_model(CIFAR10, 3)
    hostile = {"note\n": "\x1b[2J\ud800 two\nlines", "deep": {"a": [1, "\x07"]}}
    object.__setattr__(model, "provenance", hostile)
    save_model(model, tmp_path / "m.safetensors")
    found = run("models", "show", tmp_path / "m.safetensors")
    assert found.code == 0
    assert found.out.replace("\n", "").isprintable()
    assert "two\\nlines" in found.out
    (facts,) = run("models", "show", "--json", tmp_path / "m.safetensors").documents
    assert facts["provenance"] == hostile


def test_models_card(run: Run):
    for name in MODELS:
        assert run("models", "card", name) == (0, MODELS[name].card() + "\n", "")


@pytest.mark.parametrize("verb", ["show", "card", "fetch"])
def test_unknown_models(verb: str, run: Run):
    code, out, err = run("models", verb, "resnet")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown model 'resnet': expected cifar10, cifar10-authors, imagenet-authors")


def test_a_fetch_that_fails_is_no_fault_of_the_input(run: Run, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    code, out, err = run("models", "fetch", "imagenet-authors", "--from", tmp_path / "empty")
    assert (code, out) == (1, "")
    assert "error: " in err


def test_own_models(run: Run, cat: Path, tmp_path: Path):
    """Files in the cache have names; a card lies beside a file, or is made of what the file says."""
    folder = tmp_path / "cache" / "models"
    folder.mkdir(parents=True)
    model = random_model(CIFAR10, 3)
    object.__setattr__(model, "provenance", {"description": "noise", "licence": "CC0 | or not"})
    save_model(model, folder / "mine.safetensors")
    (folder / "broken.safetensors").write_bytes(b"no model")
    (rows,) = run("models", "list", "--json").documents
    own = {row["name"]: row for row in rows[len(MODELS) :]}
    assert own["mine"] == {"name": "mine", "network": "cifar10", "state": "own", "summary": "noise"}
    assert own["broken"]["state"] == "damaged"
    assert run("classify", "--model", "mine", cat).code == 0
    assert run("models", "show", "mine").out == run("models", "show", folder / "mine.safetensors").out
    assert "mine" in run("models", "show", "other").err  # among those there are
    for name in ("mine", folder / "mine.safetensors"):
        made = run("models", "card", name).out
        assert made.startswith("# Model card: `mine`\n")
        assert "| licence | CC0 \\| or not |" in made
    (folder / "mine.md").write_text("# Mine\nall \x1b[2J mine\n")
    assert run("models", "card", "mine").out == "# Mine\nall \\x1b[2J mine\n"


# import


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    from test_importers import convolutions, one_dimensional

    model = random_model(CIFAR10, 21)
    path = tmp_path / "trained.npz"
    np.savez(path, **convolutions(model), **one_dimensional(model))
    return path


def test_import(run: Run, archive: Path, tmp_path: Path):
    out = tmp_path / "new.safetensors"
    (tmp_path / "classes.txt").write_text("\ufeff" + "\n".join(f" Tier {c} \n" for c in "äbcdefghij"), "utf-8")
    options = ["--classes", tmp_path / "classes.txt", "--provenance", '{"licence": "CC0-1.0", "source": "ours"}']
    result = run("import", archive, "--network", "cifar10", "--out", out, *options)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{out}: {CIFAR10.title}, {out.stat().st_size} bytes\n"
    model = load_model(out)
    assert model.classes[:2] == ("Tier ä", "Tier b")
    assert model.provenance == {"licence": "CC0-1.0", "source": "ours"}
    expected = random_model(CIFAR10, 21).tensors()
    assert all(np.array_equal(array, expected[name]) for name, array in model.tensors().items())
    (facts,) = run("models", "show", "--json", out).documents
    assert facts["classes"][0] == "Tier ä"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network", "imagenet"], "expected a parameter 'model.0.0.weight' for ImageNet"),
        (["--provenance", "no json"], "--provenance: expected a JSON object"),
        (["--provenance", "[1]"], "--provenance: expected a JSON object, found list"),
        (["--provenance", "[" * 100_000], "--provenance: expected a JSON object"),
        (["--provenance", '{"n": ' + "9" * 5000 + "}"], "--provenance: expected a JSON object"),
        (["--classes", "missing.txt"], "cannot read file missing.txt"),
        (["--classes", "two.txt"], "expected a class name for each of the network's 10 outputs, found 2 names"),
        (["--classes", "latin.txt"], "latin.txt: expected class names in UTF-8"),
        (["--classes", "control.txt"], "class names of printable characters"),
        (["--classes", "."], "expected a file, found a folder or a device"),
        (["--out", "no/such/folder.safetensors"], "cannot write no/such/folder.safetensors: No such file"),
        (["--out", "."], "cannot write .: expected a file or a free name"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_import_that_fails_leaves_nothing(
    options: list[str], message: str, run: Run, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n" * 10)
    (tmp_path / "control.txt").write_bytes(b"a\x1b[2J\n" * 10)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, out, err = run("import", archive, "--network", "cifar10", "--out", "new.safetensors", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_import_that_fails_keeps_the_old_file(run: Run, tmp_path: Path):
    (tmp_path / "old.safetensors").write_bytes(b"old")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    for source in ("bad.npz", "missing.npz", "bad.h"):
        code, _, err = run("import", tmp_path / source, "--network", "cifar10", "--out", tmp_path / "old.safetensors")
        assert code == 2
        assert err.startswith("error: ")
    assert (tmp_path / "old.safetensors").read_bytes() == b"old"


# bench


def test_bench(run: Run):
    arguments = ["bench", "--seconds", "0.1", "--batch", "1", "--batch", "3", "--threads", "1"]
    (document,) = run(*arguments, "--json").documents
    results = document.pop("results")
    assert document.keys() == {"network", "backend", "engine", "threads", "arithmetic"}
    assert (document["network"], document["arithmetic"]) == ("cifar10", "faithful")
    assert [row["batch"] for row in results] == [1, 3]
    for row in results:
        assert row["best_ms"] <= row["median_ms"] == pytest.approx(1e3 / row["pictures_per_s"])
    lines = run(*arguments).out.splitlines()
    assert lines[0].startswith("network cifar10, backend ")
    assert [line.split()[0] for line in lines[1:]] == ["BATCH", "1", "3"]


# The command as a whole


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["classify"],
        ["models"],
        ["import"],
        ["bench"],
        *(["models", verb] for verb in ["list", "show", "card", "fetch"]),
    ],
    ids=" ".join,
)
def test_help(command: list[str], run: Run):
    for option in ("-h", "--help"):
        code, out, err = run(*command, option)
        assert (code, err) == (0, "")
        assert out.startswith(" ".join(["Usage: fracbnn", *command]))


def test_every_command_is_listed_and_has_help(run: Run):
    overview = run("-h").out
    for name, (_, summary) in cli.COMMANDS.items():
        assert f"  {name} " in overview
        assert summary.split(".")[0] in " ".join(overview.split())
        assert run(name, "-h").code == 0


def test_version(run: Run):
    assert __version__ in run("--version").out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["classify"], ["import", "a.npz"], ["models", "nonsense"]])
def test_incomplete_commands(arguments: list[str], run: Run):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") == bool(arguments)  # without any, click 8.2 and later show the help there
    assert len(err.splitlines()) == 1 or not arguments


def test_the_console_script(cat: Path):
    script = Path(sys.executable).with_name("fracbnn")
    if not script.exists():
        pytest.skip("the package is not installed in this environment")
    found = subprocess.run([script, "classify", cat], capture_output=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, b"")
    assert b": cat " in found.stdout


def test_a_reader_that_goes_away(folder: Path, tmp_path: Path):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(100):
        os.symlink(folder / "dot.png", many / f"{number}.png")
    for arguments in (["classify", str(many)], ["models", "card", "cifar10"], ["-h"]):
        reader, writer = os.pipe()
        os.close(reader)  # the very first write fails
        try:
            found = subprocess.run(
                [*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
            )
        finally:
            os.close(writer)
        assert found.returncode == 1
        assert found.stderr == b""


def test_ctrl_c():
    # A test run in the background hands on that the signal is ignored.
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{listens}; {COMMAND[-1]}", "classify", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as child:
        assert child.stdin is not None
        child.stdin.write(bytes(1 << 18))  # more than a pipe holds: it returns once the command reads
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert out == b""
    assert err.strip() == b"stopped"


def test_importing_the_package_is_light():
    heavy = ["PIL", "safetensors", "pooch", "tqdm", "click", "requests", "torch", "cv2", "pynq", "asyncio"]
    code = f"import sys, fracbnn_pynq; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert found.stdout.strip() == b"[]"


def test_classifying_loads_only_what_it_needs(cat: Path):
    code = (
        "import sys; from fracbnn_pynq import Classifier; Classifier.load().classify(sys.argv[1]);"
        "print([name for name in ('pooch', 'tqdm', 'click', 'pynq', 'cv2') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code, cat], capture_output=True, timeout=60, check=True)
    assert found.stdout.strip() == b"[]"


def test_output_that_is_no_terminal_has_no_progress_bar(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert run("classify", folder).err == ""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("classify", folder).code == 0
    assert "picture" in terminal.getvalue()
