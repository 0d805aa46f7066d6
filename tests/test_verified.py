"""A share of an accelerator's results computed again on the CPU: what is chosen, found, kept, counted and said."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import threading
import weakref
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from fracbnn_pynq import Classifier, simulator
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.backends.verified import KEPT, VerifiedBackend
from fracbnn_pynq.errors import AcceleratorError, BackendError
from fracbnn_pynq.evaluation import Repeats
from fracbnn_pynq.model import random_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.selection import create_backend

needs_pynq = pytest.mark.skipif(
    importlib.util.find_spec("pynq") is None, reason="pynq is not installed: the simulated board is built on it"
)


def logits_of(images):
    """Something that differs from picture to picture: float32 [n, 10]."""
    return images.reshape(len(images), -1)[:, :10].astype(np.float32)


class Engine:
    """An engine that computes :func:`logits_of`, but for pictures it is told to get wrong."""

    name = "overlay"
    network = CIFAR10
    arithmetic = ReferenceBackend(random_model(CIFAR10, seed=0), "faithful").arithmetic
    timings = MappingProxyType({"run": 1.0})

    def __init__(self, wrong=lambda _call, _image: 0.0):
        self.wrong = wrong
        self.calls = 0
        self.reloads = 0
        self.closed = False

    def logits(self, images):
        self.calls += 1
        return logits_of(images) + np.array([[self.wrong(self.calls, image)] for image in images], np.float32)

    def describe(self):
        return {"backend": self.name, "arithmetic": self.arithmetic.name}

    def counters(self):
        return {"pictures": 1, "cycles": 2}

    def reload(self):
        self.reloads += 1

    def close(self):
        self.closed = True


@pytest.fixture
def verified():
    made = []

    def make(engine, share=1.0, **options):
        made.append(VerifiedBackend(engine, Engine(), share, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(("share", "expected"), [(1, 20), (0.5, 10), (0.1, 2), (0.3, 6), (0.04, 0), (0.05, 1)])
def test_every_so_manieth_picture_is_checked_whatever_the_batches(verified, images, share, expected):
    whole, single = verified(Engine(), share), verified(Engine(), share)
    whole.logits(images)
    for image in images:
        single.logits(image[None])
    for each in (whole, single):
        each.settle()
        assert each.counts()["checked"] == expected
        assert each.counts()["different"] == 0


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_shares_that_are_none(share):
    with pytest.raises(BackendError, match="share above 0"):
        VerifiedBackend(Engine(), Engine(), share)


def test_what_the_engine_says_is_handed_on(verified, images):
    engine = Engine(wrong=lambda _call, _image: 1.0)
    checked = verified(engine, 0.5)
    np.testing.assert_array_equal(checked.logits(images), logits_of(images) + 1)  # wrong or not, as it came
    assert checked.timings == {"run": 1.0}
    assert checked.counters() == {"pictures": 1, "cycles": 2}
    assert checked.describe() == {"backend": "overlay", "arithmetic": "faithful", "verified": "0.5"}
    assert (checked.name, checked.network, checked.arithmetic) == ("overlay", CIFAR10, Engine.arithmetic)
    checked.reload()
    assert engine.reloads == 1


def test_a_fault_that_does_not_come_again(verified, images, caplog):
    checked = verified(Engine(wrong=lambda call, _image: 0.5 if call == 1 else 0.0))
    checked.logits(images[:1])
    checked.logits(images[1:])
    checked.settle()
    expected = {"checked": 20, "different": 1, "reproducible": 0, "labels_different": 0, "left_out": 0}
    assert checked.counts() == expected
    (found,) = checked.differences
    assert (found.number, found.reproducible) == (0, False)
    np.testing.assert_array_equal(found.image, images[0])
    np.testing.assert_array_equal(found.found, logits_of(images[:1])[0] + np.float32(0.5))
    np.testing.assert_array_equal(found.expected, logits_of(images[:1])[0])
    np.testing.assert_array_equal(found.again, found.expected)
    assert "a second run finds others" in caplog.text
    assert "1 differ (0 again in a second run" in checked.summary()


def test_a_fault_that_always_comes_is_said_once_and_kept_a_few_times(verified, images, caplog):
    checked = verified(Engine(wrong=lambda _call, _image: -1.0))
    for _ in range(3):
        checked.logits(images)
    checked.settle()
    assert checked.counts()["different"] == checked.counts()["reproducible"] == 60
    assert [difference.number for difference in checked.differences] == list(range(KEPT))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "a second run finds the same" in warnings[0].getMessage()


@pytest.mark.parametrize("wrong", [-0.0, np.nan])
@pytest.mark.parametrize("again", [True, False])
def test_bits_are_compared_not_values(verified, caplog, wrong, again):
    """-0 is not 0, and a NaN that comes again is the same NaN, wherever results are compared and counted."""
    engine = Engine()
    right = np.zeros((1, 10), np.float32)
    found = right.copy()
    found[0, 3] = wrong
    engine.logits = lambda _images: next(results)
    checked = verified(engine)
    results = iter([found, found if again else right])
    checked.logits(np.zeros((1, 32, 32, 3), np.uint8))
    checked.settle()
    assert checked.counts()["different"] == 1
    assert checked.counts()["reproducible"] == again
    assert checked.differences[0].reproducible is again
    assert "has 1 of 10 logits that are not the CPU's" in caplog.text
    assert ("finds the same" if again else "finds others") in caplog.text


def test_a_second_run_that_fails_is_no_fault_of_the_checking(verified, images):
    engine = Engine()
    checked = verified(engine)

    def fails_later(batch):
        engine.logits = fails
        return logits_of(batch) + 1

    def fails(_batch):
        raise AcceleratorError("stuck")

    engine.logits = fails_later
    checked.logits(images[:1])
    checked.settle()
    assert checked.counts()["different"] == 1
    assert checked.differences[0].again is None
    assert not checked.differences[0].reproducible


def test_a_reference_that_fails_is_counted(images, caplog):
    reference = Engine()
    reference.logits = None
    checked = VerifiedBackend(Engine(), reference, 1)
    checked.logits(images)
    checked.close()
    assert checked.counts()["left_out"] == 20
    assert "could not be checked" in caplog.text


@pytest.mark.parametrize("wait", [True, False])
def test_behind(images, wait):
    """The checking stands still: calls wait for it, or leave pictures out."""
    goes_on = threading.Event()
    reference = Engine()

    def slow(batch):
        goes_on.wait(20)
        return logits_of(batch)

    reference.logits = slow
    checked = VerifiedBackend(Engine(), reference, 1, wait=wait)
    caller = threading.Thread(target=lambda: [checked.logits(images) for _ in range(5)])
    caller.start()
    caller.join(0.5 if wait else 20)
    assert caller.is_alive() == wait
    goes_on.set()
    caller.join(20)
    checked.close()
    counts = checked.counts()
    assert counts["checked"] + counts["left_out"] == 100
    assert (counts["left_out"] == 0) == wait


def test_closing_checks_what_waits_and_closes_both(images):
    engine, reference = Engine(), Engine()
    checked = VerifiedBackend(engine, reference, 1)
    checked.logits(images)
    checked.close()
    assert checked.counts()["checked"] == 20
    assert engine.closed
    assert reference.closed
    checked.close()
    checked.settle()
    checked.logits(images[:1])  # an engine that still answered: its picture is left out, and nothing is raised
    assert checked.counts()["left_out"] == 1


def test_it_is_freed_when_nobody_uses_it(images):
    checked = VerifiedBackend(Engine(), Engine(), 1)
    checked.logits(images)
    checked.settle()
    gone = weakref.ref(checked)
    del checked
    gc.collect()
    assert gone() is None


def test_the_report(verified, images, tmp_path):
    checked = verified(Engine(wrong=lambda call, _image: 3.0 if call == 1 else 0.0))
    checked.logits(images[:2])
    checked.save(tmp_path / "report")
    data = json.loads((tmp_path / "report" / "verification.json").read_text())
    assert (data["network"], data["verified"], data["checked"], data["different"]) == ("cifar10", "1", 2, 2)
    assert [each["number"] for each in data["differences"]] == [0, 1]
    assert data["differences"][1]["expected"] == logits_of(images[1:2])[0].tolist()
    with Image.open(tmp_path / "report" / "picture-1.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), images[1])
    checked.save(tmp_path / "report")  # over the last one
    with pytest.raises(BackendError, match="cannot make the folder"):
        checked.save(tmp_path / "nowhere" / "report")


def test_only_an_accelerator_is_checked():
    with pytest.raises(BackendError, match="expected the overlay backend"):
        Classifier.load("cifar10", backend="reference", verify=0.5)


def test_a_classifier_without_it():
    with Classifier.load("cifar10", backend="reference") as classifier:
        assert classifier.verification is None


def test_repeats():
    repeats = Repeats()
    first = np.array([[1, 2, 3], [3, 2, 1], [1, 1, 1]], np.float32)
    repeats.note(np.array([0, 1, 2]), first)
    repeats.note(np.array([0, 1, 2]), first)
    assert not repeats.logits
    other = first.copy()
    other[0, 0] = 1.5
    other[1, 1] = 4
    repeats.note(np.array([2]), other[2:])
    repeats.note(np.array([0, 1]), other[:2])
    assert (repeats.logits, repeats.labels) == ({0, 1}, {1})


# On the simulated board -----------------------------------------------------------------------------------------------


@pytest.fixture
def board(monkeypatch):
    simulator.import_pynq()
    monkeypatch.setenv("FRACBNN_SIM_LATENCY", "none")

    def with_faults(faults):
        monkeypatch.setenv("FRACBNN_FAULTS", faults)

    return with_faults


@needs_pynq
@pytest.mark.parametrize("overlay", ["cifar10-overlay", "engine"])
@pytest.mark.parametrize(("faults", "different", "reproducible"), [("", 0, 0), ("flipped-bit@2:1", 1, 0)])
def test_a_simulated_core(board, images, overlay, faults, different, reproducible):
    board(faults)
    with Classifier.load("cifar10", backend="overlay", board="simulated", overlay=overlay, verify=1) as classifier:
        for image in images[:4]:
            classifier.logits(image[None])
        verification = classifier.verification
        verification.settle()
        counts = verification.counts()
    assert (counts["checked"], counts["different"]) == (4, different)
    assert counts["reproducible"] == reproducible


@needs_pynq
def test_a_core_that_is_always_wrong(board, images):
    board("flipped-bit@*:7")
    with Classifier.load("cifar10", backend="overlay", board="simulated", overlay="engine", verify=1) as classifier:
        for image in images[:3]:
            classifier.logits(image[None])
        classifier.verification.settle()
        counts = classifier.verification.counts()
    assert counts["different"] == counts["reproducible"] == 3


@needs_pynq
def test_the_imagenet_core(board):
    board("flipped-bit@1")
    model = random_model(IMAGENET, seed=2)
    images = np.random.default_rng(2).integers(0, 256, (2, 224, 224, 3), np.uint8)
    backend = create_backend(model, backend="overlay", board="simulated", overlay="imagenet-overlay", verify=1)
    with Classifier(model, backend) as classifier:
        for image in images:
            classifier.logits(image[None])
        classifier.verification.settle()
        assert classifier.verification.counts()["different"] == 1


@pytest.fixture
def labelled(tmp_path, images):
    path = tmp_path / "data.npz"
    np.savez(path, images=images, labels=np.arange(20) % 10)
    return path


OVERLAY = ("--backend", "overlay", "--board", "simulated", "--overlay", "engine")


@needs_pynq
def test_evaluate(run, board, labelled, tmp_path):
    board("")
    result = run("evaluate", labelled, *OVERLAY, "--verify", "0.5", "--repeat", "2", "--json")
    assert result.code == 0, result.err
    (data,) = result.documents
    assert data["verification"]["checked"] == 20
    assert data["verification"]["different"] == 0
    assert data["results"][0]["passes"] == 2
    assert data["results"][0]["changing"] == {"logits": [], "labels": []}
    board("flipped-bit@2:4")
    folder = tmp_path / "report"
    result = run("evaluate", labelled, *OVERLAY, "--verify", "1", "--repeat", "2", "--verify-report", folder)
    assert result.code == 1, result.err
    assert "2 passes: 1 pictures whose logits change, " in result.out
    assert "verified 40 pictures" in result.err
    assert "1 differ" in result.err
    assert (folder / "verification.json").is_file()


@needs_pynq
def test_bench(run, board):
    board("")
    result = run("bench", *OVERLAY, "--verify", "1", "--seconds", "0.1", "--batch", "2", "--json")
    assert result.code == 0, result.err
    assert result.documents[0]["verification"]["checked"] > 0


@pytest.mark.parametrize("command", [["evaluate", "data.npz"], ["bench"], ["camera"], ["serve"]])
def test_a_report_needs_something_to_report(run, command, tmp_path):
    result = run(*command, "--verify-report", tmp_path / "report")
    assert result.code == 2
    assert "--verify SHARE" in result.err
    assert not (tmp_path / "report").exists()
