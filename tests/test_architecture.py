"""The layers of docs/architecture.md against the imports: no arrow points up, and every module has a place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "fracbnn_pynq"
FOLDERS = {PACKAGE: ROOT / PACKAGE, f"{PACKAGE}.service": ROOT / "service"}
DATA_ONLY = {"notebooks", "weights"}
"""Packages without code."""

pytestmark = pytest.mark.skipif(
    not FOLDERS[PACKAGE].is_dir(), reason="the sources are not beside these tests: the installed package is tested"
)


def layers() -> list[list[str]]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```layers\n(.*?)```", text, re.DOTALL)
    return [re.split(r",\s*", re.split(r"\s{2,}", line)[0]) for line in block.splitlines()]


def modules() -> dict[str, Path]:
    found = {}
    for base, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
            found[".".join((base, *parts))] = path
    return found


def unit(module: str) -> str:
    """The part of the package that has a layer: a package directly below it, or a module."""
    return module.split(".")[1] if "." in module else ""


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Lines and names of this package's modules that a module imports: anywhere, also lazily and for types."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def absolute(name: str, level: int) -> str:
        if not level:
            return name
        parts = package.split(".")
        return ".".join([*parts[: len(parts) - level + 1], *filter(None, [name])])

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "", node.level)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and str(argument.value).startswith("."):
                name = str(argument.value).lstrip(".")
                yield node.lineno, absolute(name, len(str(argument.value)) - len(name))


def arrows() -> list[tuple[str, str, str]]:
    """From, to, and where, for every import that crosses from one unit to another."""
    known = modules()
    return [
        (unit(module), unit(target), f"{path.relative_to(ROOT)}:{line}")
        for module, path in known.items()
        for line, target in imports(module, path, known)
        if target.split(".")[0] == PACKAGE and unit(target) != unit(module)
    ]


def test_every_module_has_one_layer():
    placed = [name for layer in layers() for name in layer]
    assert sorted(placed) == sorted(set(placed))
    assert set(placed) == {unit(module) for module in modules()} - {""} - DATA_ONLY


def test_no_arrow_points_up_or_sideways():
    rank = {name: depth for depth, layer in enumerate(layers()) for name in layer}
    wrong = [
        f"{where}: {start} may not import {end}"
        for start, end, where in arrows()
        if start and end and end not in DATA_ONLY and rank[start] >= rank[end]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_top_imports_the_public_names():
    assert {start for start, end, _ in arrows() if not end} <= {"cli", "service", "notebooks"}


def test_an_arrow_that_points_up_is_seen(tmp_path):
    (tmp_path / "bad.py").write_text("def f():\n    from ..classifier import Classifier\n")
    found = list(imports(f"{PACKAGE}.board.bad", tmp_path / "bad.py", modules()))
    assert found == [(2, f"{PACKAGE}.classifier")]


def test_modules_are_short():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules().values()}
    assert not {name: lines for name, lines in long.items() if lines > 350}
