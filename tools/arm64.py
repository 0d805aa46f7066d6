"""An aarch64 Debian on another machine, to try the board's archive in: ``python tools/arm64.py ARCHIVE.tar CHECKOUT``.

Debian's packages are unpacked (debootstrap's first stage; nothing is configured), and run by proot and qemu without any
change to this machine. Needs root for the former, and debootstrap, proot, qemu-user-static and dpkg. The archive must
be one for Python 3.11, which Debian 12 has. What is tried is in ``arm64_check.py``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

SUITE = "bookworm"
PYTHON = "3.11"
TOOLS = ("debootstrap", "proot", "qemu-aarch64-static", "dpkg-deb")
_CHECK = Path(__file__).with_name("arm64_check.py")


def lacking() -> list[str]:
    """What this machine lacks to run it."""
    return [tool for tool in TOOLS if shutil.which(tool) is None] + ([] if os.geteuid() == 0 else ["root"])


def make_root(root: Path) -> None:
    """Unpack Debian with Python and pip into the folder ``root``. Raises CalledProcessError where that fails."""
    packages = "--include=python3,python3-pip,ca-certificates"
    log = root.parent / "debootstrap.log"
    with log.open("wb") as target:
        command = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", packages, SUITE, str(root)]
        subprocess.run(command, stdout=target, check=True)
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)


def run(root: Path, *command: str, binds: tuple[str, ...] = ()) -> int:
    """Run a command there with nothing of this machine's environment, and return its exit status; ``binds``: folders
    of this machine that it sees, ``FROM`` or ``FROM:TO``."""
    options = [option for bind in ("/proc", "/dev", "/sys", *binds) for option in ("-b", bind)]
    emulated = ["proot", "-q", "qemu-aarch64-static", "-r", str(root), *options, "-w", "/", *command]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "PROOT_TMP_DIR": tempfile.gettempdir()}
    program = shutil.which(emulated[0]) or emulated[0]
    return subprocess.run([program, *emulated[1:]], env=environment, check=False).returncode


def check(archive: Path, checkout: Path) -> int:
    """Install ``archive`` there, try it on what ``checkout`` has, and return 0 where all is well."""
    with tempfile.TemporaryDirectory() as room:
        root = Path(room) / "root"
        make_root(root)
        (root / "opt").mkdir(exist_ok=True)
        with tarfile.open(archive) as files:
            files.extractall(root / "opt/archive")
        shutil.copy(_CHECK, root / "opt")
        shared = checkout.parent / "shared"  # golden data, where they are
        binds = (f"{checkout}:/opt/checkout", *([f"{shared.resolve()}:/opt/shared"] if shared.exists() else []))
        return run(root, "/usr/bin/python3", "/opt/arm64_check.py", binds=binds)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help=f"what wheelhouse.py made, with --python {PYTHON}")
    parser.add_argument("checkout", type=Path, help="a folder with tests/ and notebooks/")
    chosen = parser.parse_args()
    if missing := lacking():
        parser.error(f"expected {', '.join(TOOLS)} and root, found no {', no '.join(missing)}")
    raise SystemExit(check(chosen.archive.resolve(), chosen.checkout.resolve()))


if __name__ == "__main__":
    main()
