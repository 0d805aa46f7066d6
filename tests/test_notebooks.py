"""The notebooks: their form, and that they run from top to bottom on what is here."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
VARIABLES = ("FRACBNN_BACKEND", "FRACBNN_BOARD", "FRACBNN_MODEL", "FRACBNN_FAULTS", "FRACBNN_SIM_LATENCY")
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


@each_notebook
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
def test_runs(path, tmp_path, monkeypatch):
    for module in ("nbformat", "nbclient", "ipykernel", "matplotlib", *EXTRAS.get(path.stem, [])):
        pytest.importorskip(module)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MPLBACKEND", "agg")
    nbformat, nbclient = import_module("nbformat"), import_module("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises where a cell fails
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = "".join(output.text for cell in code for output in cell.outputs if output.get("name") == "stdout")
    assert all(cell.execution_count for cell in code)
    assert "False" not in printed  # of "the same bits: ..."
    assert list(tmp_path.iterdir()) == []
