"""The documentation: blocks that are marked as running do run, and the site is built without a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = [page for page in [ROOT / "README.md"] if page.is_file()]
BLOCK = re.compile(r"^<!-- runs -->\n```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fence after the comment ``<!-- runs -->`` is run beside the checkout's notebooks and a cat.jpg."""

BLOCKS = [
    pytest.param(*block, id=f"{page.name}-{number}")
    for page in [*README, *PAGES]
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


def test_blocks_are_found():
    assert sum("index.md" in str(block.id) for block in BLOCKS) >= 3


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_a_marked_block_runs(language: str, text: str, tmp_path: Path):
    if not (ROOT / "notebooks" / "pictures").is_dir():
        pytest.skip("the sample pictures are not beside the tests")
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    (tmp_path / "cat.jpg").symlink_to(ROOT / "notebooks" / "pictures" / "cat.jpg")
    command = ["sh", "-ec", text] if language == "sh" else [sys.executable, "-W", "error", "-c", text]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "FRACBNN_CACHE": str(tmp_path / "cache")}
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout


@pytest.mark.skipif(
    not all(map(find_spec, ("mkdocs", "material", "mkdocstrings"))),
    reason="the extra docs is not installed",
)
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path):
    if not (ROOT / "mkdocs.yml").is_file():
        pytest.skip("mkdocs.yml is not beside the tests")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"' >]+", text)
        loaded += re.findall(r"<link\b(?=[^>]*(?:stylesheet|preconnect|icon))[^>]*href=[\"']?(?:https?:)?//", text)
        assert not loaded, page
    commands = (tmp_path / "site" / "reference-commands" / "index.html").read_text(encoding="utf-8")
    assert "fracbnn overlays explain mine.safetensors --pixels 4" in commands
