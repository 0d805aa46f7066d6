"""What to install for a part of the package: the lines it prints, and those that the documentation has."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fracbnn_pynq.extras import NAME, install_line

CHECKOUT = Path(__file__).resolve().parents[1]
METADATA = importlib.metadata.metadata(NAME)
EXTRAS = METADATA.get_all("Provides-Extra")
LINE = re.compile(r"pip3? install ([^#`\n]*)")


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_line_names_what_an_extra_adds(extra):
    words = shlex.split(install_line(extra))
    assert words[:2] == ["pip", "install"]
    named = {Requirement(word).name for word in words[2:]}
    assert named
    always = {Requirement(text).name for text in METADATA.get_all("Requires-Dist") if ";" not in text}
    assert not named & (always - {"numpy"})  # of which an extra may want less


def test_a_line_of_the_service_by_hand():
    assert {"fastapi", "httptools", "msgspec", "python-multipart", "uvicorn", "wsproto"} == {
        Requirement(word).name for word in shlex.split(install_line("service"))[2:]
    }


def test_without_metadata_the_line_is_that_of_a_checkout(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert install_line("camera") == "pip install '.[camera]'"


def documents():
    for pattern in ("*.md", "docs/*.md", "notebooks/*.md", "notebooks/*.ipynb", "benchmarks/*.md", "benchmarks/*.py"):
        yield from CHECKOUT.glob(pattern)
    for folder in ("fracbnn_pynq", "service"):
        yield from (CHECKOUT / folder).rglob("*.py")


def test_no_document_takes_the_package_from_an_index():
    """It is on none yet, so such a line stops everybody who types it."""
    lines = {(path.name, line) for path in documents() for line in LINE.findall(path.read_text(encoding="utf-8"))}
    assert len(lines) > 5
    wrong = [(name, line) for name, line in lines if re.search(r"(^|[\s'\"])fracbnn[-_]pynq(\[|[\s'\"]|$)", line)]
    assert wrong == []
    asked = {
        extra for _, line in lines for group in re.findall(r"\.\[([a-z,-]+)\]", line) for extra in group.split(",")
    }
    assert asked
    assert asked <= set(EXTRAS)
