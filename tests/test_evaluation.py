"""Accuracy on labelled pictures: counted right, classes matched by name, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_support import Run
from PIL import Image
from training_support import COLOURS, folder_of_pictures

from fracbnn_pynq.classifier import Classifier
from fracbnn_pynq.datasets import DECODE_CHUNK, Source, open_source
from fracbnn_pynq.errors import SourceError
from fracbnn_pynq.evaluation import evaluate


@pytest.fixture(scope="module")
def classifier():
    with Classifier.load("cifar10") as loaded:
        yield loaded


def labelled(classifier: Classifier, count: int, **changes) -> Source:
    """Noise labelled with what the classifier says, and that itself."""
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    best = classifier.logits(images).argmax(axis=1)
    return Source(images, best, classifier.labels, "noise", **changes)


def test_its_own_answers_are_right(classifier: Classifier):
    steps: list[int] = []
    found = evaluate(classifier, labelled(classifier, DECODE_CHUNK + 3), steps.append)
    assert steps == [DECODE_CHUNK, 3]
    assert (found.pictures, found.right, found.right_in_top) == (DECODE_CHUNK + 3, DECODE_CHUNK + 3, DECODE_CHUNK + 3)
    assert (found.share, found.share_in_top, found.standard_error) == (1.0, 1.0, 0.0)
    assert sum(count for _, count in found.by_class.values()) == DECODE_CHUNK + 3
    assert all(right == count for right, count in found.by_class.values())


def test_wrong_labels_are_counted(classifier: Classifier):
    source = labelled(classifier, 40)
    order = np.argsort(-classifier.logits(source.pictures), axis=1, kind="stable")
    ranks = np.arange(40) % 10  # the label of picture i is the answer of rank i mod 10
    wrong = Source(source.pictures, order[np.arange(40), ranks], source.classes, "ranks")
    found = evaluate(classifier, wrong)
    assert (found.right, found.right_in_top) == (4, 20)
    assert found.standard_error == pytest.approx((0.1 * 0.9 / 40) ** 0.5)


def test_classes_are_matched_by_name_or_else_by_number(classifier: Classifier):
    source = labelled(classifier, 30)
    turned = Source(source.pictures, 9 - source.labels, source.classes[::-1], "turned")
    assert evaluate(classifier, turned).right == 30
    unnamed = Source(source.pictures, source.labels, tuple(f"class {i}" for i in range(10)), "unnamed", named=False)
    assert evaluate(classifier, unnamed).right == 30
    with pytest.raises(SourceError, match=r"turned: expected pictures of airplane, .*; found a class 'plane'"):
        evaluate(classifier, Source(source.pictures, source.labels, ("plane", *source.classes[1:]), "turned"))
    more = Source(source.pictures, source.labels, tuple(f"class {i}" for i in range(11)), "more", named=False)
    with pytest.raises(SourceError, match=r"more: expected pictures of .*; found a class 'class 10'"):
        evaluate(classifier, more)


def test_nothing_and_unreadable_pictures(classifier: Classifier):
    nothing = Source([], np.zeros(0, np.int64), classifier.labels, "nothing")
    with pytest.raises(SourceError, match="nothing: expected labelled pictures, found none"):
        evaluate(classifier, nothing)
    damaged = Source([b"no picture"], np.zeros(1, np.int64), classifier.labels, "damaged")
    with pytest.raises(SourceError, match=r"damaged, picture 0: .*; take it out, or replace it"):
        evaluate(classifier, damaged)


def test_unreadable_pictures_are_counted_and_left_out(classifier: Classifier, tmp_path: Path, run: Run):
    source = labelled(classifier, 6)
    pictures = [*source.pictures[:2], b"no picture", *source.pictures[3:]]
    left: list[SourceError] = []
    found = evaluate(classifier, Source(pictures, source.labels, source.classes, "some"), leave_out=left.append)
    assert (found.pictures, found.right, found.unreadable) == (6, 5, 1)
    assert found.share == 1.0
    assert sum(count for _, count in found.by_class.values()) == 5
    assert ["some, picture 2" in str(error) for error in left] == [True]
    with pytest.raises(SourceError, match="found none of 1 that can be read"):
        evaluate(classifier, Source([b"x"], source.labels[:1], source.classes, "none"), leave_out=left.append)

    for index, label in enumerate(source.labels):
        (tmp_path / source.classes[label]).mkdir(exist_ok=True)
        Image.fromarray(source.pictures[index]).save(tmp_path / source.classes[label] / f"{index}.png")
    for name in classifier.labels[:2]:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "bad.png").write_text("I am not a picture")
    result = run("evaluate", tmp_path, "--json")
    assert result.code == 2
    (facts,) = result.documents[0]["results"]
    assert (facts["pictures"], facts["unreadable"], facts["top1"]) == (8, 2, 1.0)
    assert [line.startswith("error: ") and "bad.png" in line for line in result.err.splitlines()] == [True, True]
    assert "UNREADABLE" in run("evaluate", tmp_path).out


def test_the_command(classifier: Classifier, tmp_path: Path, run: Run):
    source = labelled(classifier, 20)
    np.savez(tmp_path / "noise.npz", images=source.pictures, labels=source.labels, classes=np.array(source.classes))
    code, out, _ = run("evaluate", tmp_path / "noise.npz", "--json")
    facts = json.loads(out)
    assert (code, facts["arithmetic"], facts["results"][0]["top1"]) == (0, "faithful", 1.0)
    assert facts["results"][0]["by_class"] == {
        name: {"right": right, "pictures": count}
        for name, (right, count) in evaluate(classifier, source).by_class.items()
    }
    code, out, _ = run("evaluate", tmp_path / "noise.npz", tmp_path / "noise.npz", "--classes")
    assert code == 0
    assert out.count("100.00%  100.00%  0.00 points") == 2
    folder_of_pictures(tmp_path / "colours", 6)
    code, out, err = run("evaluate", tmp_path / "colours")
    assert (code, out) == (2, "")
    assert f"found a class '{sorted(COLOURS)[0]}'" in err


def test_accuracy_of_the_bundled_model(shared: Path, classifier: Classifier):
    """What its card says."""
    stated = classifier.model.provenance["accuracy"]
    source = open_source(shared / "data" / "cifar10_lossless_1017.npz")
    (key,) = (name for name in stated if "1017" in name)
    assert round(evaluate(classifier, source).share, 4) == stated[key]
