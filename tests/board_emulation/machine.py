"""Run a command on an emulated Ultra96-V2: ``python machine.py [options] -- COMMAND...``; see README.md.

In a private mount namespace the machine's own root, copy on write, is given what a board has: a device tree, an FPGA
manager, a file for physical memory at /dev/mem, a render node, and XRT (the stand-ins in ``xrt/``). A process plays the
programmable logic (``fabric.py``). Nothing outside the namespace changes. Needs root, overlayfs and a C compiler.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
ROOM = Path("/mnt")
"""Where the namespace's own file system is put; what lies there outside the namespace is hidden meanwhile."""
ROOT = ROOM / "root"
XRT = Path("/opt/emulated-xrt")
PUBLISHED = Path("/run/published")
MEMORY_BYTES = 4 << 30
STARTED_S = 60.0

PROC = ("cpuinfo", "filesystems", "loadavg", "mounts", "net", "self", "stat", "sys", "uptime", "version")
DEVICES = ("full", "null", "random", "urandom", "zero")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if not options.inside:
        again = [sys.executable, __file__, "--inside", *sys.argv[1:]]
        return subprocess.call(["unshare", "--mount", "--propagation", "private", *again])
    build_root()
    install_xrt()
    return run(options.command)


def why_not() -> str | None:
    """Why this machine cannot be an emulated board; ``None`` where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "an emulated board needs root, for a mount namespace"
    for tool in ("unshare", "mount", "chroot", "cc"):
        if shutil.which(tool) is None:
            return f"an emulated board needs the program {tool}"
    script = (
        f"mount -t tmpfs tmpfs {ROOM} && mkdir {ROOM}/a {ROOM}/b {ROOM}/c && "
        f"mount -t overlay overlay -o lowerdir=/,upperdir={ROOM}/a,workdir={ROOM}/b {ROOM}/c"
    )
    probe = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    found = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no mount namespace with overlayfs here: {found.stderr.strip()}" if found.returncode else None


def mount(kind: str, target: Path, *options: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, *options, kind, str(target)], check=True)


def bind(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True) if source.is_dir() else target.touch()
    subprocess.run(["mount", "--rbind", str(source), str(target)], check=True)


def build_root() -> None:
    mount("tmpfs", ROOM)
    layer(Path("/"), ROOT)
    for needed in (CHECKOUT, CHECKOUT.parent / "shared", Path(sys.prefix), Path(sys.base_prefix)):
        if needed.is_dir() and not (ROOT / needed.relative_to("/")).is_dir():
            raise SystemExit(f"{needed} lies on another file system than /: an emulated board cannot see it")
    build_proc()
    build_sys()
    build_dev()
    for folder in ("run", "lib/firmware"):
        mount("tmpfs", (ROOT / folder).resolve() if folder == "run" else ROOT / "usr/lib/firmware")
    (ROOT / "run/lock").mkdir()
    (ROOT / "run/fabric").mkdir()


def layer(lower: Path, target: Path) -> None:
    """``lower`` at ``target``, with changes kept in memory."""
    changes = ROOM / "changes" / str(len(list(ROOM.glob("changes/*"))))
    (changes / "upper").mkdir(parents=True)
    (changes / "work").mkdir()
    mount("overlay", target, "-o", f"lowerdir={lower},upperdir={changes}/upper,workdir={changes}/work")


def build_proc() -> None:
    """The kernel's, but for the device tree and the memory for DMA."""
    bind(Path("/proc"), ROOT / ".proc")
    proc = ROOT / "proc"
    mount("tmpfs", proc)
    for name in PROC:
        (proc / name).symlink_to(f"/.proc/{name}")
    meminfo = [line for line in Path("/proc/meminfo").read_text().splitlines() if not line.startswith("Cma")]
    meminfo += ["CmaTotal:         262144 kB", "CmaFree:          250000 kB"]
    (proc / "meminfo").write_text("\n".join(meminfo) + "\n")
    tree = proc / "device-tree"
    (tree / "chosen").mkdir(parents=True)
    (tree / "chosen/pynq_board").write_bytes(b"Ultra96\0")
    (tree / "model").write_bytes(b"Avnet Ultra96-V2 Rev1\0")
    (tree / "compatible").write_bytes(b"avnet,ultra96-rev1\0xlnx,zynqmp\0")


def build_sys() -> None:
    mount("tmpfs", ROOT / "sys")
    (ROOT / "sys/devices").mkdir()
    bind(Path("/sys/devices/system"), ROOT / "sys/devices/system")
    manager = ROOT / "sys/class/fpga_manager/fpga0"
    manager.mkdir(parents=True)
    for name, content in (("firmware", ""), ("flags", "0\n"), ("state", "unknown\n"), ("name", "Xilinx ZynqMP\n")):
        (manager / name).write_text(content)


def build_dev() -> None:
    mount("tmpfs", ROOT / "dev")
    for name in DEVICES:
        bind(Path("/dev") / name, ROOT / "dev" / name)
    (ROOT / "dev/fd").symlink_to("/proc/self/fd")
    (ROOT / "dev/shm").mkdir()
    (ROOT / "dev/dri").mkdir()
    (ROOT / "dev/dri/renderD128").touch()
    with (ROOT / "dev/mem").open("wb") as memory:
        memory.truncate(MEMORY_BYTES)


def install_xrt() -> None:
    """XRT's stand-ins, laid out as its packages lay it out."""
    target = ROOT / XRT.relative_to("/")
    for folder in ("bin", "lib", "python"):
        (target / folder).mkdir(parents=True)
    for name, folder in (
        ("xclbinutil", "bin"),
        ("xbutil", "bin"),
        ("pyxrt.py", "python"),
        ("sitecustomize.py", "python"),
    ):
        shutil.copy(HERE / "xrt" / name, target / folder)
    library = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target / "lib/libxrt_core.so")]
    subprocess.run(["cc", *library, str(HERE / "xrt/xrt_core.c")], check=True)


def run(command: list[str]) -> int:
    """The command's exit status, with the fabric beside it and what a login as root sets on a board."""
    python = [sys.executable, "-W", "ignore"]
    environment = {
        **os.environ,
        "BOARD": "Ultra96",
        "XILINX_XRT": str(XRT),
        "PATH": f"{XRT}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": "/root",
        "TMPDIR": "/tmp",
        "FRACBNN_CACHE": "/run/cache",
    }
    chroot = ["chroot", str(ROOT)]
    subprocess.run([*chroot, *python, str(HERE / "prepare.py"), str(PUBLISHED)], env=environment, check=True)
    logic = subprocess.Popen([*chroot, *python, str(HERE / "fabric.py")], env=environment)
    try:
        wait_for(ROOT / "run/fabric/ready", logic)
        # What follows is what a board's shell has; the stand-ins' folder also makes Python say that this is one.
        environment["PYTHONPATH"] = f"{XRT}/python"
        return subprocess.call([*chroot, *command], env=environment)
    finally:
        logic.terminate()
        logic.wait()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTED_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("the process that plays the programmable logic did not start")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
