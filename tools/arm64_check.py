"""What ``arm64.py`` runs on the aarch64 Debian: installs the archive, and uses it as a person with a board would.

Times are an emulator's, and peaks of memory have the emulator's own in them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path("/opt/checkout")
CAT = CHECKOUT / "notebooks/pictures/cat.jpg"
TESTS = ("test_native.py", "test_thermometer.py", "test_layouts_weights.py")
PORT = 8080


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Say how long it took."""
    begin = time.monotonic()
    yield
    print(f"arm64: {name}: {time.monotonic() - begin:.0f} s", flush=True)


def end(process: subprocess.Popen[str]) -> None:
    """Wait for a program, which must succeed, and say how much memory it had at most."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    print(f"arm64: {usage.ru_maxrss / 1024:.0f} MB at most", flush=True)
    assert process.returncode == 0, process.args


def said(*command: str) -> str:
    """What a command prints; it must succeed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = process.stdout.read()
    end(process)
    return found


def install() -> None:
    """Run the archive's script, as in an image's own environment."""
    (script,) = Path("/opt/archive").glob("*/install.sh")
    environment = {**os.environ, "PYTHON": sys.executable, "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    done = subprocess.run(["sh", str(script)], check=False, stdout=subprocess.PIPE, text=True, env=environment)
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout


def serve() -> None:
    """Start the service, ask it for a label, and end it."""
    service = subprocess.Popen(["fracbnn", "serve", "--port", str(PORT)], text=True)
    try:
        latest = time.monotonic() + 120
        while _ask("GET", "/health/ready")[0] != 200:
            assert service.poll() is None, "the service ended"
            assert time.monotonic() < latest, "the service did not start"
            time.sleep(0.5)
        status, body = _ask("POST", "/v1/classify", CAT.read_bytes())
        assert status == 200, body
        assert b'"label":"cat"' in body, body
        service.send_signal(signal.SIGTERM)
        end(service)
    finally:
        service.kill()
        service.wait()


def _ask(method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def main() -> None:
    """All of it."""
    os.environ["PATH"] = f"/usr/local/bin:{os.environ['PATH']}"
    with step("install"):
        install()
    with step("classify"):
        found = said("fracbnn", "classify", str(CAT))
        print(found, end="")
        assert ": cat " in found
    with step("doctor"):
        found = said("fracbnn", "doctor")
        assert found.splitlines()[-1].startswith("Here: cpu (neon)."), found
    with step("serve, one request"):
        serve()
    with step(f"tests {', '.join(TESTS)}"):
        os.chdir(CHECKOUT)
        # Hypothesis finds that it cannot write here what it would keep for another run.
        quiet = ("-W", "ignore::hypothesis.errors.HypothesisWarning", "-p", "no:cacheprovider", "-n", "0", "-q")
        subprocess.run([sys.executable, "-m", "pytest", *quiet, *(f"tests/{name}" for name in TESTS)], check=True)


if __name__ == "__main__":
    main()
