"""All that a board needs, as one archive: ``python tools/wheelhouse.py dist/fracbnn_pynq-...-aarch64.whl``.

The archive has this project's wheel, every package that it needs, the models and overlays that have been fetched on
this machine, and a script that installs them without internet and without a compiler. Needs the package ``uv``, which
finds out what another machine's Python needs, and internet.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from fracbnn_pynq.files import cache_directory
from fracbnn_pynq.models import MODELS
from fracbnn_pynq.published.catalog import OVERLAYS, WEIGHTS
from fracbnn_pynq.published.fetch import licence_notice, status

MACHINE = "aarch64"
CONSTRAINTS = ("numpy<2",)
"""What pynq's buffers need."""
_GLIBC = (2, 28)
"""What packages may ask for at most; the image for pynq 3.0.1 has 2.35, Debian 12 has 2.36."""
_OLDEST_GLIBC = 17
_INSTALL = Path(__file__).with_name("board_install.sh")


def build_wheelhouse(
    wheel: Path, out: Path, *, python: str = "3.10", extras: str = "service", cache: bool = True
) -> None:
    """Write the archive ``out`` (.tar) for a board's ``python`` ("3.10"), with this project's ``wheel`` for aarch64 and
    what it needs with ``extras`` ("a,b"); ``cache``: with what has been fetched.

    Raises RuntimeError with what uv or pip said, where a package cannot be had.
    """
    name = f"fracbnn-pynq[{extras}]" if extras else "fracbnn-pynq"
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(temporary)
        folder = room / out.stem
        wheels = folder / "wheels"
        wheels.mkdir(parents=True)
        (folder / "constraints.txt").write_text("\n".join(CONSTRAINTS) + "\n", encoding="utf-8")
        (folder / "requirement.txt").write_text(name + "\n", encoding="utf-8")
        (folder / "python.txt").write_text(f"{python} {MACHINE}\n", encoding="utf-8")
        shutil.copy(_INSTALL, folder / "install.sh")
        (room / "in.txt").write_text(f"{name} @ {wheel.resolve().as_uri()}\n", encoding="utf-8")
        pinned = folder / "packages.txt"
        _pin(room / "in.txt", folder / "constraints.txt", pinned, python)
        _download(pinned, wheels, python)
        shutil.copy(wheel, wheels)
        if cache:
            _copy_fetched(folder / "cache")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(out, "w") as archive:
            archive.add(folder, folder.name, filter=_anonymous)


def _pin(requirements: Path, constraints: Path, pinned: Path, python: str) -> None:
    """Write which release of each package the board's Python needs, with hashes."""
    _run(
        *("uv", "pip", "compile", "--quiet", "--no-python-downloads", "--python", sys.executable),
        *("--python-version", python, "--python-platform", f"{MACHINE}-manylinux_{_GLIBC[0]}_{_GLIBC[1]}"),
        *("--only-binary", ":all:", "--no-emit-package", "fracbnn-pynq", "--generate-hashes", "--no-header"),
        *("--constraints", str(constraints), "--output-file", str(pinned), str(requirements)),
    )


def _download(pinned: Path, folder: Path, python: str) -> None:
    tags = [f"manylinux_{_GLIBC[0]}_{minor}_{MACHINE}" for minor in range(_GLIBC[1], _OLDEST_GLIBC - 1, -1)]
    tags.append(f"manylinux2014_{MACHINE}")
    _run(
        *("pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *(option for tag in tags for option in ("--platform", tag)),
        *("--implementation", "cp", "--python-version", python),
        *("--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none"),
        *("--dest", str(folder), "--requirement", str(pinned)),
    )


def _copy_fetched(folder: Path) -> None:
    """Copy what has been fetched and is whole, in the cache's own shape, and say from whom it comes."""
    for artifact in (*OVERLAYS, *WEIGHTS):
        if all(state == "ok" for _, state in status(artifact)):
            shutil.copytree(cache_directory() / artifact.name, folder / artifact.name)
            print(f"with {artifact.name}. {licence_notice(artifact)}")
    for model in MODELS.values():
        if model.available and not model.bundled and model.base is None:
            (folder / "models").mkdir(parents=True, exist_ok=True)
            shutil.copy(model.path, folder / "models")
            print(f"with the model {model.name}")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _run(*module: str) -> None:
    done = subprocess.run([sys.executable, "-m", *module], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(module[:2])} failed:\n{(done.stdout + done.stderr)[-4000:]}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help=f"this project's wheel for {MACHINE}")
    parser.add_argument("--out", type=Path, help="the archive (default: fracbnn-board-cpVERSION.tar beside the wheel)")
    parser.add_argument("--python", default="3.10", metavar="VERSION", help="the board's Python (default: 3.10)")
    parser.add_argument("--extras", default="service", metavar="A,B", help="extras of this project (default: service)")
    parser.add_argument("--no-cache", action="store_true", help="without the models and overlays that were fetched")
    chosen = parser.parse_args()
    out = chosen.out or chosen.wheel.with_name(f"fracbnn-board-cp{chosen.python.replace('.', '')}.tar")
    build_wheelhouse(chosen.wheel, out, python=chosen.python, extras=chosen.extras, cache=not chosen.no_cache)
    print(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
