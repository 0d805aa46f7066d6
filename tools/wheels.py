"""Wheels for x86-64 and aarch64, made on any Linux machine: ``python tools/wheels.py --out dist``.

The C compiler is zig's (the package ``ziglang``), which makes code for both processors and for old systems: the wheels
need glibc 2.17 or newer. They are made from a source distribution, as that is what others have, and a second run of the
same versions of setuptools and ziglang makes the same bytes. Needs the packages ``build``, ``setuptools`` and
``ziglang``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MACHINES = ("x86_64", "aarch64")
GLIBC = (2, 17)
_HERE = Path(__file__).resolve().parents[1]


def build_wheels(source: Path, out: Path, machines: tuple[str, ...] = MACHINES) -> list[Path]:
    """Wheels of the checkout ``source`` in the folder ``out``, one for each machine. Raises RuntimeError with what
    the build said, where it fails."""
    when = _run(["git", "-C", str(source), "log", "-1", "--format=%ct"], dict(os.environ)).strip()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": when}
    with tempfile.TemporaryDirectory() as room:
        build = [sys.executable, "-m", "build", "--no-isolation"]
        _run([*build, "--sdist", "--outdir", room, str(source)], environment)
        (archive,) = Path(room).glob("*.tar.gz")

        def make(machine: str) -> Path:
            folder = Path(room) / machine
            with tarfile.open(archive) as files:
                files.extractall(folder)
            (unpacked,) = folder.iterdir()
            made = folder / "made"
            tag = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{machine}"
            command = [*build, "--wheel", "--outdir", str(made), f"-C--build-option=--plat-name={tag}", str(unpacked)]
            _run(command, {**environment, **_compiler(machine)})
            (wheel,) = made.glob("*.whl")
            out.mkdir(parents=True, exist_ok=True)
            return Path(wheel.replace(out.resolve() / wheel.name))

        with ThreadPoolExecutor() as pool:
            return list(pool.map(make, machines))


def _compiler(machine: str) -> dict[str, str]:
    """What setuptools needs in its environment to compile for that machine; nothing of this machine's own flags."""
    compiler = f"{sys.executable} -m ziglang cc -target {machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
    return {
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared -s",
        "AR": f"{sys.executable} -m ziglang ar",
        "CFLAGS": "",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        "FRACBNN_NATIVE": "required",
    }


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the wheels (default: dist)")
    parser.add_argument("--machine", choices=MACHINES, action="append", help="one machine only (default: both)")
    chosen = parser.parse_args()
    for wheel in build_wheels(_HERE, chosen.out, tuple(chosen.machine or MACHINES)):
        print(wheel)


if __name__ == "__main__":
    main()
