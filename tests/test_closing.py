"""Closing against running and arriving calls, in threads, at the end of a process and after a fork: never a hang."""

from __future__ import annotations

import collections
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from waiting_support import live_threads

from fracbnn_pynq import Classifier, native, simulator
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.board.executor import OwnerThread
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.model import random_model
from fracbnn_pynq.networks import CIFAR10
from fracbnn_pynq.selection import create_backend, open_overlay

pytestmark = pytest.mark.timeout(120)
needs_kernels = pytest.mark.skipif(not native.available(), reason="the native kernels were not built")
needs_pynq = pytest.mark.skipif(
    importlib.util.find_spec("pynq") is None, reason="pynq is not installed: the simulated board is built on it"
)
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return CpuBackend(random_model(CIFAR10), threads=1).logits(IMAGES)


@pytest.fixture
def board() -> Iterator[Callable[[], Classifier]]:
    simulator.import_pynq()
    opened = []

    def load() -> Classifier:
        model = random_model(CIFAR10)
        backend = open_overlay(model, model_name="any", board="simulated", simulation={"latency": "none"})
        opened.append(Classifier(model, backend))
        return opened[-1]

    yield load
    for classifier in opened:
        classifier.close()


def closed_under_load(classifier: Classifier, wait: float) -> tuple[list[np.ndarray], collections.Counter[str]]:
    """Results and errors of four threads that go on asking while a fifth closes."""
    results: list[np.ndarray] = []
    errors: collections.Counter[str] = collections.Counter()

    def ask() -> None:
        while True:
            try:
                results.append(classifier.logits(IMAGES))
            except BackendError as error:
                errors[f"BackendError {error.message}"] += 1
                return
            except BaseException as error:
                errors[f"{type(error).__name__} {error}"] += 1
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    closers = [threading.Thread(target=classifier.close) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(wait)
    for thread in closers:
        thread.start()
    for thread in threads + closers:
        thread.join(30)
        assert not thread.is_alive()
    return results, errors


@needs_kernels
@pytest.mark.parametrize("wait", [0.0, 0.001, 0.005, 0.02])
def test_closing_the_cpu_engine_under_load(wait: float, expected: np.ndarray):
    before = live_threads("fracbnn-cpu")
    for _ in range(5):
        classifier = Classifier(random_model(CIFAR10), CpuBackend(random_model(CIFAR10), threads=4))
        results, errors = closed_under_load(classifier, wait)
        assert all(np.array_equal(result, expected) for result in results)
        assert set(errors) <= {
            "BackendError this engine has been closed",
            "BackendError this classifier has been closed",
        }
    assert live_threads("fracbnn-cpu") <= before


@needs_kernels
@pytest.mark.parametrize("threads", [1, 3])
def test_a_closed_cpu_engine(threads: int):
    backend = CpuBackend(random_model(CIFAR10), threads=threads)
    backend.logits(IMAGES)
    backend.close()
    backend.close()
    for images in (IMAGES, IMAGES[:1]):
        with pytest.raises(BackendError, match="this engine has been closed; load another one"):
            backend.logits(images)


@needs_pynq
@pytest.mark.parametrize("wait", [0.0, 0.02, 0.2])
def test_closing_a_board_under_load(wait: float, board: Callable[[], Classifier]):
    classifier = board()
    expected = classifier.logits(IMAGES)
    results, errors = closed_under_load(classifier, wait)
    assert all(np.array_equal(result, expected) for result in results)
    assert set(errors) <= {
        "BackendError this accelerator has been closed",
        "BackendError this classifier has been closed",
    }


def test_no_job_runs_after_the_last():
    """Buffers are freed by the last job: one that ran after it would use them."""
    for direct in (False, True):
        for _ in range(50):
            owner = OwnerThread("owner")
            order: list[str] = []

            def ask(owner: OwnerThread = owner, order: list[str] = order, direct: bool = direct) -> None:
                try:
                    while True:
                        owner.call(lambda job: order.append("work"), direct=direct)
                except BackendError:
                    return

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            closers = [
                threading.Thread(target=lambda o=owner, r=order: o.stop(lambda job: r.append("last"))) for _ in range(3)
            ]
            for thread in closers:
                thread.start()
            for thread in threads + closers:
                thread.join(10)
                assert not thread.is_alive()
            assert order[-1] == "last"
            assert order.count("last") == 1


def test_an_error_of_the_last_job_reaches_who_closed():
    owner = OwnerThread("owner")
    with pytest.raises(ZeroDivisionError):
        owner.stop(lambda job: 1 // 0)  # type: ignore[arg-type,return-value]
    owner.stop(lambda job: pytest.fail("a second last job"))


def test_stopping_from_the_owner_itself_does_not_wait_for_itself():
    owner = OwnerThread("owner")
    order: list[str] = []
    owner.call(lambda job: owner.stop(lambda job: order.append("last")))
    assert order == ["last"]
    with pytest.raises(BackendError, match="has been closed"):
        owner.call(lambda job: None)


# Forked processes


def in_child(work: Callable[[], object]) -> str:
    """What ``work`` gives or raises in a forked process, which has ten seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            import signal

            signal.alarm(10)
            answer = f"{work()}"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    assert os.waitpid(child, 0)[1] == 0, "it hung"
    return answer


@needs_kernels
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True])
def test_the_cpu_engine_in_a_forked_process(used: bool, expected: np.ndarray):
    backend = CpuBackend(random_model(CIFAR10), threads=3)
    if used:
        backend.logits(IMAGES)
    assert in_child(lambda: np.array_equal(backend.logits(IMAGES), expected)) == "True"
    with backend._pool_lock:  # as if another thread were just starting the pool
        assert in_child(lambda: np.array_equal(backend.logits(IMAGES), expected)) == "True"
    assert in_child(backend.close) == "None"
    assert np.array_equal(backend.logits(IMAGES), expected)
    backend.close()
    assert in_child(lambda: backend.logits(IMAGES)).startswith("BackendError: this engine has been closed")


@needs_pynq
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_board_is_refused_in_a_forked_process(board: Callable[[], Classifier]):
    classifier = board()
    before = classifier.logits(IMAGES)
    answer = in_child(lambda: classifier.logits(IMAGES))
    assert answer.startswith(f"BackendError: this accelerator belongs to process {os.getpid()}; process ")
    assert answer.endswith("load the classifier after forking, in the one process that uses it")
    assert in_child(classifier.close) == "None"
    assert np.array_equal(classifier.logits(IMAGES), before)


FORKING = """
    import os, sys
    import numpy as np
    from fracbnn_pynq import Classifier, simulator
    from fracbnn_pynq.errors import BackendError
    from pathlib import Path
    simulator.import_pynq()
    classifier = Classifier.load(backend="overlay", board="simulated")
    folder = Path(classifier.engine.accelerator._overlay.bitfile_name).parent
    x = np.zeros((2, 32, 32, 3), np.uint8)
    before = classifier.logits(x)
    child = os.fork()
    if child == 0:
        {child}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert folder.is_dir()
    assert np.array_equal(classifier.logits(x), before)
    classifier.close()
    assert not folder.exists()
    print("good")
"""


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@needs_pynq
@pytest.mark.parametrize("child", ["sys.exit()", "classifier.close(); sys.exit()", "del classifier; sys.exit()"])
def test_the_end_of_a_forked_process_leaves_the_board_alone(child: str):
    done = run_script(FORKING.format(child=child))
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


# The end of a process


AT_EXIT = """
    import atexit, threading
    import numpy as np
    {load}
    x = np.zeros((8, 32, 32, 3), np.uint8)
    before = classifier.logits(x) if {used} else None

    @atexit.register
    def last():
        after = classifier.logits(x)
        assert before is None or np.array_equal(before, after)
        classifier.close()
        print("good")
"""
LOADS = {
    "cpu": "from fracbnn_pynq import Classifier; classifier = Classifier.load(backend='cpu', threads=4)",
    "board": "from fracbnn_pynq import Classifier, simulator; simulator.import_pynq(); "
    "classifier = Classifier.load(backend='overlay', board='simulated')",
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("where", [pytest.param("cpu", marks=needs_kernels), pytest.param("board", marks=needs_pynq)])
def test_calls_while_the_process_ends(where: str, used: bool):
    done = run_script(AT_EXIT.format(load=LOADS[where], used=used))
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


@needs_kernels
def test_a_thread_that_outlives_the_main_one():
    script = """
        import threading, time
        import numpy as np
        from fracbnn_pynq import Classifier
        classifier = Classifier.load(backend="cpu", threads=4)
        x = np.zeros((8, 32, 32, 3), np.uint8)
        before = classifier.logits(x)

        def work():
            threading.main_thread().join()
            for _ in range(20):
                assert np.array_equal(classifier.logits(x), before)
            print("good")

        threading.Thread(target=work).start()
    """
    done = run_script(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


@needs_kernels
def test_without_further_threads_the_caller_computes_all(monkeypatch: pytest.MonkeyPatch, expected: np.ndarray):
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert np.array_equal(CpuBackend(random_model(CIFAR10), threads=4).logits(IMAGES), expected)


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("threads", ["2", 1.5, 0, -3, True, 10**9])
def test_threads_are_a_whole_number(threads: object, backend: str):
    with pytest.raises(BackendError, match="threads: expected a whole number from 1 to 1024"):
        create_backend(random_model(CIFAR10), backend=backend, threads=threads)  # type: ignore[arg-type]
