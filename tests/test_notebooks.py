"""The notebooks: their form, and that they run from top to bottom on what is here."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
VARIABLES = (
    "FRACBNN_BACKEND",
    "FRACBNN_BOARD",
    "FRACBNN_OVERLAY",
    "FRACBNN_MODEL",
    "FRACBNN_FAULTS",
    "FRACBNN_SIM_CORE",
    "FRACBNN_SIM_LATENCY",
)
ABSOLUTE = re.compile(r"(?<![\w.:/$}])/(?:home|Users|root|tmp|usr|opt|mnt|media|var|work|srv)\b|[A-Z]:\\\\")
EXTRAS = {"02_webcam_or_video": ["ipywidgets"], "06_http_service": ["fastapi", "uvicorn"]}
TIMEOUT_S = 60

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_six_and_the_readme_lists_them():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]
    readme = (NOTEBOOKS[0].parent / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d\d_\w+\.ipynb)\)", readme) == [path.name for path in NOTEBOOKS]


@each_notebook
def test_form(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert notebook["nbformat"] == 4
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    first = notebook["cells"][0]
    opening = "".join(first["source"])
    assert first["cell_type"] == "markdown"
    assert opening.startswith("# ")
    for promise in ("**Shows**", "**Needs**", "**Takes**"):
        assert promise in opening
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert ABSOLUTE.search(text) is None


@pytest.mark.parametrize("text", ["see /home/someone/x", "(/tmp/x)", 'open(\\"/root/x\\")', " /usr/lib", "/work/x"])
def test_paths_of_a_machine_are_recognised(text):
    assert ABSOLUTE.search(text)


def run(path, folder, monkeypatch, **environment):
    """Run a notebook with these variables and no other of ours; what it printed."""
    for module in ("nbformat", "nbclient", "ipykernel", "matplotlib", *EXTRAS.get(path.stem, [])):
        pytest.importorskip(module)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"MPLBACKEND": "agg", **environment}.items():
        monkeypatch.setenv(variable, value)
    nbformat, nbclient = import_module("nbformat"), import_module("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()  # raises where a cell fails
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = "".join(output.text for cell in code for output in cell.outputs if output.get("name") == "stdout")
    assert all(cell.execution_count for cell in code)
    assert "False" not in printed  # of "the same bits: ..."
    assert list(folder.iterdir()) == []
    return printed


@each_notebook
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
def test_runs(path, tmp_path, monkeypatch):
    run(path, tmp_path, monkeypatch)


@pytest.mark.parametrize("path", [NOTEBOOKS[2], NOTEBOOKS[4]], ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
def test_runs_on_the_projects_own_accelerator(path, tmp_path, monkeypatch):
    pytest.importorskip("pynq")
    printed = run(path, tmp_path, monkeypatch, FRACBNN_OVERLAY="engine", FRACBNN_BOARD="simulated")
    # The notebook on speed opens an accelerator; the one under the hood drives a published core by hand, whichever
    # overlay is meant elsewhere.
    expected = {"05": "overlay (simulated): arithmetic faithful", "03": "the same bits as the reference engine: True"}
    assert expected[path.stem[:2]] in printed
