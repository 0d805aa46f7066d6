"""The public class: ranking, batches, streams, closing, and which engine is taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from waiting_support import live_threads

from fracbnn_pynq import Classifier, Prediction, native
from fracbnn_pynq.classifier import STREAM_DEPTH, softmax
from fracbnn_pynq.errors import BackendError, ModelError, PictureError
from fracbnn_pynq.model import Model, random_model
from fracbnn_pynq.modelfile import save_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network

needs_kernels = pytest.mark.skipif(not native.available(), reason="native kernels were not built")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FRACBNN_MODEL", "FRACBNN_BACKEND", "FRACBNN_BOARD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model(CIFAR10, 6)


class Recorder:
    """An engine whose first logit is the picture's first pixel; it can be made to wait."""

    name = "recorder"
    network = CIFAR10
    arithmetic = SimpleNamespace(name="none")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.closed = 0
        self.release: threading.Event | None = None

    def logits(self, images: np.ndarray) -> np.ndarray:
        self.network.check_images(images)
        if self.release is not None:
            assert self.release.wait(10)
        self.batches.append(len(images))
        logits = np.zeros((len(images), 10), np.float32)
        logits[:, 0] = images[:, 0, 0, 0]
        return logits

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def engine() -> Recorder:
    return Recorder()


@pytest.fixture
def classifier(engine: Recorder, model: Model) -> Classifier:
    return Classifier(model, engine)  # type: ignore[arg-type]


def frame(value: int) -> np.ndarray:
    return np.full((32, 32, 3), value, np.uint8)


# Ranking


def test_softmax():
    found = softmax(np.array([[0, 0], [1000, 1000], [0, -1000]], np.float32))
    assert found.dtype == np.float64
    assert found.tolist() == [[0.5, 0.5], [0.5, 0.5], [1, 0]]


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=10, max_size=10), min_size=1, max_size=4))
@settings(deadline=None)
def test_ranks_are_sorted_and_sum_to_one(rows: list[list[float]]):
    classifier = Classifier(random_model(CIFAR10), Recorder())  # type: ignore[arg-type]
    for ranked, row in zip(classifier.rank(np.array(rows, np.float32), 10), rows, strict=True):
        order = sorted(range(10), key=lambda i: (-row[i], i))
        assert [label for label, _ in ranked] == [f"class {i}" for i in order]
        assert sum(probability for _, probability in ranked) == pytest.approx(1)
        assert all(isinstance(probability, float) for _, probability in ranked)


def test_equal_logits_rank_in_class_order(classifier: Classifier):
    logits = np.array([[0, 1, -0.0, 1, 0, 0, 0, 0, 0, 0]], np.float32)
    assert [label for label, _ in classifier.rank(logits, 4)[0]] == ["class 1", "class 3", "class 0", "class 2"]


@pytest.mark.parametrize(("top", "count"), [(1, 1), (5, 5), (10, 10), (11, 10), (10**6, 10)])
def test_top_is_at_most_the_number_of_classes(top: int, count: int, classifier: Classifier):
    assert len(classifier.classify(frame(1), top).top) == count
    assert classifier.rank(np.zeros((0, 10), np.float32), top) == []


@pytest.mark.parametrize("top", [0, -1])
def test_top_below_one(top: int, classifier: Classifier):
    with pytest.raises(ValueError, match=f"top: expected at least 1, found {top}"):
        classifier.classify(frame(1), top)


def test_prediction():
    prediction = Prediction([("cat", 0.75), ("dog", 0.25)])
    assert (prediction.label, prediction.score, dict(prediction.timings)) == ("cat", 0.75, {})


# Pictures


def test_a_batch_is_one_run_of_the_engine(classifier: Classifier, engine: Recorder):
    found = classifier.classify_many([frame(50), frame(0), frame(50)], top=2)
    assert engine.batches == [3]
    assert [prediction.label for prediction in found] == ["class 0"] * 3
    assert found[0].top == found[2].top != found[1].top
    for prediction in found:
        assert list(prediction.timings) == ["read", "infer", "total"]
        assert prediction.timings["total"] == prediction.timings["read"] + prediction.timings["infer"]
        assert min(prediction.timings.values()) >= 0


def test_a_batch_of_nothing(classifier: Classifier, engine: Recorder):
    assert classifier.classify_many([]) == []
    assert engine.batches == []


def test_pictures_in_every_form_are_the_same(cat: Path):
    with Classifier.load() as classifier, open(cat, "rb") as stream, Image.open(cat) as image:
        array = np.asarray(image.convert("RGB"))
        forms: list[Any] = [cat, str(cat), cat.read_bytes(), stream, image, array]
        tops = [prediction.top for prediction in classifier.classify_many(forms)]
        assert tops == [tops[0]] * len(forms)
        assert classifier.classify(array[..., ::-1].copy(), bgr=True).top == tops[0]
        assert tops[0][0][0] == "cat"


def test_pictures_that_cannot_be_read(classifier: Classifier, engine: Recorder):
    with pytest.raises(PictureError, match="no such"):
        classifier.classify_many([frame(1), "no such picture.png"])
    for wrong in (frame(1)[None].astype(np.int16), frame(1), np.zeros((1, 31, 32, 3), np.uint8), [1]):
        with pytest.raises(PictureError, match=r"expected a uint8 array \[N, 32, 32, 3\]"):
            classifier.logits(wrong)  # type: ignore[arg-type]
    assert engine.batches == []


def test_logits_are_the_engines(classifier: Classifier):
    assert classifier.logits(np.stack([frame(7), frame(9)]))[:, 0].tolist() == [7, 9]


def test_what_a_classifier_says_of_itself(classifier: Classifier, model: Model, engine: Recorder):
    assert classifier.labels == tuple(f"class {i}" for i in range(10))
    assert (classifier.network, classifier.model, classifier.engine) == (CIFAR10, model, engine)
    assert (classifier.backend, classifier.arithmetic) == ("recorder", "none")


# Closing


def test_a_closed_classifier_refuses_to_work(classifier: Classifier, engine: Recorder):
    with classifier as entered:
        assert entered is classifier
    classifier.close()
    assert engine.closed == 1
    assert classifier.labels
    for use in (
        lambda: classifier.classify(frame(1)),
        lambda: classifier.logits(frame(1)[None]),
        lambda: list(classifier.stream([frame(1)])),
        lambda: classifier.backend,
        lambda: classifier.arithmetic,
        lambda: classifier.engine,
    ):
        with pytest.raises(BackendError, match="this classifier has been closed; load another one"):
            use()


def test_a_classifier_is_closed_after_an_error(classifier: Classifier, engine: Recorder):
    with pytest.raises(ZeroDivisionError), classifier:
        1 / 0  # noqa: B018
    assert engine.closed == 1


# Streams


def test_a_stream_keeps_the_order(classifier: Classifier, engine: Recorder):
    frames = [frame(value) for value in range(20)]
    found = list(classifier.stream(iter(frames), top=10))
    assert [id(given) for given, _ in found] == [id(given) for given in frames]
    assert [p.top for _, p in found] == [classifier.classify(given, 10).top for given in frames]
    assert engine.batches == [1] * 40


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_short_streams(count: int, classifier: Classifier):
    assert len(list(classifier.stream([frame(1)] * count))) == count


def test_a_stream_takes_frames_only_as_they_are_needed(classifier: Classifier):
    taken = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal taken
        for value in range(100):
            taken += 1
            yield frame(value)

    stream = classifier.stream(frames())
    assert taken == 0
    for used in range(1, 6):
        next(stream)
        assert taken == used + STREAM_DEPTH - 1
    stream.close()  # type: ignore[attr-defined]
    assert taken == 5 + STREAM_DEPTH - 1


def test_a_frame_is_classified_while_the_last_is_used(classifier: Classifier, engine: Recorder):
    stream = classifier.stream([frame(1), frame(2), frame(3)])
    next(stream)
    deadline = time.monotonic() + 10
    while len(engine.batches) < 2:  # the consumer does not ask for more meanwhile
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_stream_that_is_left_early_ends_its_thread(classifier: Classifier, engine: Recorder):
    before = live_threads("fracbnn-stream")
    stream = classifier.stream([frame(1)] * 10)
    next(stream)
    own = live_threads("fracbnn-stream") - before
    assert own
    stream.close()  # type: ignore[attr-defined]
    assert not own & live_threads()
    assert len(engine.batches) <= STREAM_DEPTH
    assert classifier.classify(frame(1)).label == "class 0"


def test_a_source_that_fails_ends_the_stream(classifier: Classifier):
    def frames() -> Iterator[np.ndarray]:
        yield frame(1)
        yield frame(2)
        raise OSError("the camera is gone")

    before = live_threads("fracbnn-stream")
    found = []
    with pytest.raises(OSError, match="the camera is gone"):  # noqa: PT012 - what came before it counts
        for given, _ in classifier.stream(frames()):
            found.append(int(given[0, 0, 0]))
    assert found[:1] == [1]
    assert live_threads("fracbnn-stream") <= before
    assert classifier.classify(frame(1)).label == "class 0"


def test_a_frame_that_is_no_picture_ends_the_stream_in_its_turn(classifier: Classifier):
    before = live_threads("fracbnn-stream")
    frames: list[Any] = [frame(1), "no such picture.png", frame(3)]
    stream = classifier.stream(frames)
    next(stream)
    with pytest.raises(PictureError, match="no such"):
        next(stream)
    assert live_threads("fracbnn-stream") <= before


def test_a_stream_of_a_classifier_that_is_closed_meanwhile(classifier: Classifier):
    stream = classifier.stream([frame(1)] * 10)
    next(stream)
    classifier.close()
    with pytest.raises(BackendError, match="closed"):
        list(stream)


# Threads


@needs_kernels
def test_one_classifier_serves_several_threads(model: Model, tmp_path: Path):
    save_model(model, tmp_path / "m.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    with Classifier.load(tmp_path / "m.safetensors", backend="cpu", threads=2) as classifier:
        expected = classifier.logits(images)

        def work(start: int) -> bool:
            return all(
                np.array_equal(classifier.logits(images[start : start + 6]), expected[start : start + 6])
                for _ in range(10)
            )

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(work, [0, 3, 6, 9, 12, 18]))


# Loading


@needs_kernels
def test_engines_agree_and_auto_takes_the_fast_one(cat: Path):
    tops = []
    for backend, name in (("auto", "cpu"), ("cpu", "cpu"), ("reference", "reference")):
        with Classifier.load(backend=backend) as classifier:
            assert (classifier.backend, classifier.arithmetic) == (name, "faithful")
            tops.append(classifier.classify(cat, 10).top)
    assert tops == [tops[0]] * 3


@needs_kernels
@pytest.mark.parametrize(("network", "classes"), [(CIFAR10, 1), (CIFAR10, 3), (CIFAR10, 37), (IMAGENET, 37)])
def test_engines_agree_on_other_numbers_of_classes(network: Network, classes: int, tmp_path: Path):
    save_model(random_model(network.with_classes(classes), classes), tmp_path / "m.safetensors")
    size = network.image_size
    images = np.random.default_rng(classes).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    found = []
    for backend in ("cpu", "reference"):
        with Classifier.load(tmp_path / "m.safetensors", backend=backend) as classifier:
            assert len(classifier.labels) == classes
            assert len(classifier.classify(images[0], top=50).top) == min(classes, 50)
            found.append(classifier.logits(images))
    assert found[0].shape == (1, classes)
    assert np.array_equal(*found)


def test_without_native_kernels_the_reference_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cat: Path
):
    monkeypatch.setattr(native, "extension", None)
    with Classifier.load() as classifier:
        assert classifier.backend == "reference"
        assert classifier.classify(cat).label == "cat"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "running the slow NumPy reference: the native kernels are missing" in caplog.text
    with pytest.raises(BackendError, match=r"the native kernels are missing.* use backend 'reference'"):
        Classifier.load(backend="cpu")


def test_arithmetics_by_name():
    with Classifier.load(backend="reference", arithmetic="cifar10-2020") as classifier:
        assert classifier.arithmetic == "cifar10-2020"
    with Classifier.load(arithmetic="float") as classifier:
        assert (classifier.backend, classifier.arithmetic) == ("reference", "float")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "gpu"}, "backend: expected one of auto, overlay, cpu, reference, found 'gpu'$"),
        ({"board": "pynq-z2"}, "board: expected one of auto, real, simulated, found 'pynq-z2'$"),
        ({"arithmetic": "bfloat16"}, "expected one of faithful, cifar10-2021, cifar10-2020, float, found 'bfloat16'"),
        ({"arithmetic": "imagenet-2021"}, "arithmetic for CIFAR-10 .* found 'imagenet-2021'"),
        ({"backend": "reference", "arithmetic": ""}, "found ''"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, str], message: str):
    with pytest.raises(BackendError, match=message):
        Classifier.load(**options)  # type: ignore[arg-type]


@needs_kernels
def test_options_the_cpu_engine_refuses():
    with pytest.raises(BackendError, match="arithmetic 'float' needs backend 'reference'"):
        Classifier.load(backend="cpu", arithmetic="float")
    with pytest.raises(BackendError, match="threads: expected a whole number from 1 to 1024, found 0"):
        Classifier.load(backend="cpu", threads=0)


def test_unknown_models():
    with pytest.raises(ModelError, match="unknown model 'mobilenet'"):
        Classifier.load("mobilenet")


def test_the_environment_chooses_what_the_caller_leaves_open(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    save_model(model, tmp_path / "m.safetensors")
    monkeypatch.setenv("FRACBNN_MODEL", str(tmp_path / "m.safetensors"))
    monkeypatch.setenv("FRACBNN_BACKEND", "reference")
    with Classifier.load() as classifier:
        assert (classifier.labels, classifier.backend) == (model.classes, "reference")
    with Classifier.load("cifar10") as classifier:
        assert classifier.labels[3] == "cat"
    monkeypatch.setenv("FRACBNN_BACKEND", "quantum")
    with pytest.raises(BackendError, match=r"backend: expected .* found 'quantum' in FRACBNN_BACKEND"):
        Classifier.load()
    with Classifier.load(backend="reference") as classifier:
        assert classifier.backend == "reference"
    monkeypatch.setenv("FRACBNN_BACKEND", "")
    monkeypatch.setenv("FRACBNN_BOARD", "toaster")
    with pytest.raises(BackendError, match=r"board: expected .* found 'toaster' in FRACBNN_BOARD"):
        Classifier.load()
