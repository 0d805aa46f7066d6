"""The recipe of the container: what it copies, runs and promises holds. ``nox -s container`` builds and runs it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

CHECKOUT = Path(__file__).resolve().parents[1]
if not (CHECKOUT / "Dockerfile").is_file():
    pytest.skip("no checkout: the container's recipe is not here", allow_module_level=True)


@pytest.fixture(scope="module")
def recipe():
    """The Dockerfile's instructions: name and rest, lines joined."""
    text = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line and not line.startswith("#")]


def only(recipe, name):
    """The one instruction of that name, as JSON."""
    (rest,) = (rest for instruction, rest in recipe if instruction == name)
    return json.loads(rest)


def test_it_runs_as_nobody_special_and_the_compiler_stays_behind(recipe):
    stages = [place for place, (name, _) in enumerate(recipe) if name == "FROM"]
    last = recipe[stages[-1] :]
    (user,) = (rest for name, rest in last if name == "USER")
    assert user not in ("root", "0")
    assert not [rest for name, rest in last if name == "RUN" and "gcc" in rest]
    assert [name for name, _ in last].index("USER") < [name for name, _ in last].index("ENTRYPOINT")


def test_what_is_left_out_of_the_build_is_not_part_of_the_package():
    ignored = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").split()
    named = re.findall(r'"(\w+)"$', (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"notebooks", "service", "weights"} <= set(named)  # which lie at the top, and are installed
    assert not {"fracbnn_pynq", "notebooks", "service", "weights", "setup.py", "pyproject.toml"} & set(ignored)


def test_it_serves_and_its_health_check_sees_it(recipe):
    (command,) = (rest for name, rest in recipe if name == "HEALTHCHECK")
    check = json.loads(command[command.index("CMD") + 3 :])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    arguments = [port if word == "8000" else word for word in only(recipe, "CMD")]
    check = [sys.executable, *(word.replace("8000", port) for word in check[1:])]
    assert only(recipe, "ENTRYPOINT") == ["fracbnn"]
    start = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()"]
    process = subprocess.Popen([*start, *arguments], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 60
        while subprocess.run(check, capture_output=True, check=False).returncode:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end, "never healthy"
            time.sleep(0.2)
        process.terminate()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
    finally:
        process.kill()
        process.communicate()
    assert subprocess.run(check, capture_output=True, check=False).returncode


def test_the_compose_example_fits_the_balancers_addresses():
    folder = CHECKOUT / "service" / "deploy"
    made = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    balanced = set(re.findall(r"server \w+ ([\d.]+):8000", (folder / "haproxy.cfg").read_text(encoding="utf-8")))
    services = {name: each for name, each in made["services"].items() if "build" in each}
    addresses = {each["networks"]["boards"]["ipv4_address"] for each in services.values()}
    assert len(services) == len(addresses) >= 2
    assert addresses <= balanced
    assert set(made["services"]["balancer"]["depends_on"]) == set(services)
    assert all((folder / each["build"] / "Dockerfile").is_file() for each in services.values())
