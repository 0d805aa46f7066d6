"""Labelled pictures: every source, decoded once as they would be classified, and split."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_support import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from training_support import COLOURS, archive_of_pictures, dataset, folder_of_pictures, pictures
from traps import Malicious

from fracbnn_pynq import datasets
from fracbnn_pynq.classes import CIFAR10_CLASSES
from fracbnn_pynq.datasets import Dataset, Source, decode, open_source, split
from fracbnn_pynq.errors import PictureError, SourceError
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.pictures import load


def read(source: Source, folder: Path) -> Dataset:
    return decode(source, CIFAR10, folder / "decoded.npy", progress=False)


# Folders


def test_a_folder_of_folders(tmp_path: Path):
    source = open_source(folder_of_pictures(tmp_path / "colours", 9))
    assert source.classes == tuple(sorted(COLOURS))
    assert source.name == "colours"
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    found = read(source, tmp_path)
    images, labels = pictures(9)
    for name in COLOURS:
        expected = images[labels == COLOURS.index(name)].transpose(0, 3, 1, 2)
        own, _ = found.take(np.flatnonzero(found.labels == found.classes.index(name)))
        assert np.array_equal(own, expected)


def test_hidden_folders_and_other_files_are_no_classes(tmp_path: Path):
    folder_of_pictures(tmp_path, 4, classes=2)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("two classes")
    (tmp_path / "red" / "notes.txt").write_text("no picture")
    source = open_source(tmp_path)
    assert (source.classes, len(source.labels)) == (("green", "red"), 4)


def test_a_class_of_nested_folders(tmp_path: Path):
    folder_of_pictures(tmp_path / "all", 4, classes=2)
    folder_of_pictures(tmp_path / "all" / "red", 2, classes=2, seed=1)
    assert np.bincount(open_source(tmp_path / "all").labels).tolist() == [2, 4]


def test_pictures_of_other_sizes_are_prepared_as_for_classifying(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / name / "x.jpg")
    for network in (CIFAR10, IMAGENET):
        found = decode(open_source(tmp_path), network, tmp_path / f"{network.name}.npy", progress=False)
        expected = load(tmp_path / "b" / "x.jpg", network).transpose(2, 0, 1)
        assert found.pictures.shape == (2, 3, network.image_size, network.image_size)
        assert np.array_equal(found.pictures[1], expected)


@pytest.mark.parametrize("names", [(), ("one",)])
def test_fewer_than_two_folders(names: tuple[str, ...], tmp_path: Path):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(SourceError, match=f"expected one folder of pictures per class, found {len(names)} folders"):
        open_source(tmp_path)


def test_a_class_without_pictures(tmp_path: Path):
    folder_of_pictures(tmp_path, 4, classes=2)
    (tmp_path / "yellow").mkdir()
    with pytest.raises(PictureError, match=r"yellow.*expected a picture file.*found none"):
        open_source(tmp_path)


def test_neither_a_folder_nor_an_archive(tmp_path: Path):
    (tmp_path / "x.txt").write_text("x")
    for name in ("x.txt", "gone", "gone.npz"):
        with pytest.raises(SourceError, match=f"{name}: expected a folder with one folder of pictures per class, or"):
            open_source(tmp_path / name)


# .npz


def test_an_archive_of_pixels(tmp_path: Path):
    source = open_source(archive_of_pictures(tmp_path / "m.npz", 6))
    images, labels = pictures(6)
    assert (source.classes, source.name) == (COLOURS, "m.npz")
    found = read(source, tmp_path)
    assert np.array_equal(found.pictures, images.transpose(0, 3, 1, 2))
    assert np.array_equal(found.labels, labels)
    assert (found.labels.dtype, found.pictures.dtype) == (np.int64, np.uint8)


def jpegs(count: int, seed: int = 0) -> list[bytes]:
    encoded = []
    for image in pictures(count, seed=seed)[0]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG")
        encoded.append(stream.getvalue())
    return encoded


def test_an_archive_of_encoded_pictures(tmp_path: Path):
    files = jpegs(3)
    offsets = np.cumsum([0, *map(len, files)])
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "m.npz", jpeg=jpeg, offsets=offsets, labels=np.array([4, 0, 1], np.uint8))
    source = open_source(tmp_path / "m.npz")
    assert source.classes == tuple(f"class {index}" for index in range(5))
    found = read(source, tmp_path)
    for picture, file in zip(found.pictures, files, strict=True):
        assert np.array_equal(picture, load(file, CIFAR10).transpose(2, 0, 1))


def test_the_data_sets_kept_beside_the_checkout(shared: Path):
    source = open_source(shared / "data" / "cifar10_test_jpeg.npz")
    assert (source.classes, len(source.pictures)) == (CIFAR10_CLASSES, 10_000)
    assert np.bincount(source.labels).tolist() == [1000] * 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "expected arrays 'labels' and 'images', or 'jpeg' and 'offsets'"),
        ({"images": None}, "expected arrays 'labels' and 'images'"),
        ({"images": None, "jpeg": np.zeros(9, np.uint8)}, "expected arrays 'labels' and 'images'.*offsets"),
        ({"labels": np.zeros(5, int)}, "expected a label from 0 up for each of 6 pictures"),
        ({"labels": np.zeros((6, 1), int)}, "expected a label from 0 up for each of 6 pictures"),
        ({"labels": np.array([0, 1, 2, 0, 1, -1])}, "expected a label from 0 up"),
        ({"labels": np.array([0, 1, 2, 0, 1, 3])}, "expected labels below 3, the number of classes; found 3"),
        ({"labels": np.array(list("abcdef"))}, "expected an .npz of plain arrays"),
        ({"labels": np.array([None] * 6)}, "expected plain numbers, found Python objects"),
        ({"images": np.uint8(3)}, "expected an .npz of plain arrays"),
        ({"classes": np.int64(3)}, "expected an .npz of plain arrays"),
    ],
)
def test_archives_of_other_arrays(changes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(SourceError, match=message) as caught:
        open_source(archive_of_pictures(tmp_path / "m.npz", 6, **changes))
    assert str(tmp_path / "m.npz") in str(caught.value)


def test_damaged_archives(tmp_path: Path):
    whole = archive_of_pictures(tmp_path / "m.npz", 6).read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for content in (b"", b"no archive", b"PK\x03\x04", whole[:1000], whole[:-30], array.getvalue(), pickle.dumps([1])):
        (tmp_path / "m.npz").write_bytes(content)
        with pytest.raises(SourceError, match=r"m\.npz: expected an \.npz of plain arrays, found something else"):
            open_source(tmp_path / "m.npz")


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_fuzz_of_archives(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    content = bytearray(archive_of_pictures(path, 2, images=np.zeros((2, 2, 2, 3), np.uint8)).read_bytes())
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(bytes(content))
    try:
        source = open_source(path)
    except SourceError as error:
        assert str(error).startswith(f"{path}: expected")
    else:
        assert len(source.pictures) == len(source.labels)


# CIFAR-10's own files


def text2(value: bytes) -> bytes:
    """A string as Python 2 pickled it."""
    return b"T" + struct.pack("<I", len(value)) + value


def python2_batch(rows: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and the NumPy of its day wrote the published files: byte strings, numpy.core."""
    shape = b"".join(b"J" + struct.pack("<i", size) for size in rows.shape)
    array = [
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text2(b"b") + b"\x87R",
        b"(K\x01" + shape + b"\x86",
        b"cnumpy\ndtype\n" + text2(b"u1") + b"K\x00K\x01\x87R",
        b"(K\x03" + text2(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb",
        b"\x89" + text2(rows.tobytes()) + b"tb",
    ]
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    label = text2(b"batch_label") + text2(b"training batch 1 of 5")
    return b"\x80\x02}(" + label + text2(b"labels") + numbers + text2(b"data") + b"".join(array) + b"u."


def batch(rows: Any, labels: Any) -> bytes:
    return pickle.dumps({b"data": rows, b"labels": labels, b"batch_label": b"b", b"filenames": [b"x"]}, protocol=2)


def random_rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


@pytest.mark.parametrize("write", [batch, python2_batch])
def test_cifar10_batches(write: Callable[..., bytes], tmp_path: Path):
    for number in (1, 2):
        (tmp_path / f"data_batch_{number}").write_bytes(write(random_rows(4, number), [number, 0, 9, 5]))
    (tmp_path / "test_batch").write_bytes(write(random_rows(3, 9), [1, 2, 3]))
    (tmp_path / "readme.html").write_text("CIFAR-10")
    source = open_source(tmp_path)
    assert source.classes == CIFAR10_CLASSES
    assert source.labels.tolist() == [1, 0, 9, 5, 2, 0, 9, 5]
    found = read(source, tmp_path)
    expected = np.concatenate([random_rows(4, 1), random_rows(4, 2)]).reshape(8, 3, 32, 32)  # planes R, G, B
    assert np.array_equal(found.pictures, expected)


def test_a_test_batch_alone_is_read(tmp_path: Path):
    (tmp_path / "test_batch").write_bytes(batch(random_rows(3), [1, 2, 3]))
    assert open_source(tmp_path).labels.tolist() == [1, 2, 3]


def test_batches_are_not_executed(tmp_path: Path):
    trap = tmp_path / "executed"
    evil = np.array([Malicious(trap)], dtype=object)
    contents = [
        pickle.dumps(Malicious(trap), protocol=2),
        batch(random_rows(1), [Malicious(trap)]),
        batch(evil, [1]),
        b"cbuiltins\nexec\n(S'import os; os.mkdir(" + repr(str(trap)).encode().replace(b"'", b'"') + b")'\ntR.",
        b"\x80\x02cnumpy\nload\n.",
    ]
    path = tmp_path / "data_batch_1"
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(
            SourceError,
            match=r"data_batch_1: expected a CIFAR-10 batch file.*it (asks for [a-z]+\.\w+|has an array of 'O8')",
        ):
            open_source(tmp_path)
        assert not trap.exists()
    pickle.loads(contents[3])  # the trap does work
    assert trap.is_dir()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found something else"),
        (b"no pickle", "found something else"),
        (batch(random_rows(4), [1, 2, 3, 4])[:-100], "found something else"),
        (pickle.dumps([1, 2]), "found something else"),
        (pickle.dumps({b"fine_labels": [1]}, protocol=2), "found something else"),
        (batch(random_rows(2), [1, b"two"]), "found something else"),
        (batch(random_rows(2), [1, 2, 3]), r"rows of 3072 bytes and a label for each, found uint8 \[2, 3072\]"),
        (batch(random_rows(2), 5), "'labels' is no list of numbers"),
        (batch(random_rows(2), [[1], [2]]), "'labels' is no list of numbers"),
        (batch(random_rows(2), [1, 2**40]), "'labels' is no list of numbers"),
        (batch(random_rows(2), np.array([[1], [2]])), r"found uint8 \[2, 3072\] and labels \[2, 1\]"),
        (batch(random_rows(2)[:, :100], [1, 2]), r"found uint8 \[2, 100\]"),
        (batch(random_rows(2).astype(np.int16), [1, 2]), r"found int16 \[2, 3072\]"),
        (batch(random_rows(2).ravel(), [1, 2]), r"found uint8 \[6144\]"),
        (batch(b"text", [1]), "'data' is no array"),
        (batch(random_rows(2), [1, 10]), "expected labels from 0 to 9, found 1 to 10"),
        (batch(random_rows(2), [-1, 0]), "expected labels from 0 to 9, found -1 to 0"),
    ],
)
def test_damaged_batches(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "data_batch_1").write_bytes(batch(random_rows(2), [1, 2]))
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(tmp_path)
    assert str(tmp_path / "data_batch_2") in str(caught.value)


# Decoding


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every picture that was decoded."""
    done: list[Any] = []

    def counting(source: Any, *rest: Any) -> np.ndarray:
        done.append(source)
        return load(source, *rest)

    monkeypatch.setattr(datasets, "load", counting)
    return done


def test_pictures_are_decoded_once(decodings: list[Any], tmp_path: Path):
    folder = folder_of_pictures(tmp_path / "p", 6)
    first = read(open_source(folder), tmp_path)
    assert sorted(decodings) == sorted(folder.rglob("*.png"))
    second = read(open_source(folder), tmp_path)
    assert len(decodings) == 6
    assert np.array_equal(first.pictures, second.pictures)
    assert isinstance(second.pictures, np.memmap)


def changed_picture(folder: Path) -> None:
    Image.new("RGB", (32, 32), "white").save(folder / "red" / "000.png")


def touched_picture(folder: Path) -> None:
    os.utime(folder / "red" / "000.png", ns=(1, 1))


def added_picture(folder: Path) -> None:
    Image.new("RGB", (32, 32), "white").save(folder / "red" / "999.png")


def renamed_class(folder: Path) -> None:
    (folder / "red").rename(folder / "crimson")


def moved_picture(folder: Path) -> None:
    (folder / "red" / "000.png").rename(folder / "green" / "000.png")


@pytest.mark.parametrize("change", [changed_picture, touched_picture, added_picture, renamed_class, moved_picture])
def test_changed_pictures_are_decoded_again(change: Callable[[Path], None], decodings: list[Any], tmp_path: Path):
    folder = folder_of_pictures(tmp_path / "p", 6)
    read(open_source(folder), tmp_path)
    decodings.clear()
    change(folder)
    found = read(open_source(folder), tmp_path)
    assert sorted(decodings) == sorted(folder.rglob("*.png"))
    for picture, path in zip(found.pictures, open_source(folder).pictures, strict=True):
        assert np.array_equal(picture, load(path, CIFAR10).transpose(2, 0, 1))


def test_changed_pixels_and_another_network_are_decoded_again(decodings: list[Any], tmp_path: Path):
    source = open_source(archive_of_pictures(tmp_path / "m.npz", 3))
    read(source, tmp_path)
    read(replace(source, pictures=source.pictures ^ 1), tmp_path)
    assert len(decodings) == 6
    decode(source, IMAGENET, tmp_path / "decoded.npy", progress=False)
    assert len(decodings) == 9


def test_a_decoding_that_was_cut_short_is_not_used(decodings: list[Any], tmp_path: Path):
    folder = folder_of_pictures(tmp_path / "p", 6)
    read(open_source(folder), tmp_path)
    broken = folder / "red" / "003.png"
    kept, when = broken.read_bytes(), broken.stat().st_mtime_ns
    broken.write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(SourceError, match=r"p, picture 5: .*003\.png.*take it out, or replace it"):
            read(open_source(folder), tmp_path)
    decodings.clear()
    broken.write_bytes(kept)
    os.utime(broken, ns=(when, when))  # as if it had never been another
    assert len(read(open_source(folder), tmp_path)) == len(decodings) == 6


def test_the_first_unreadable_picture_is_named(tmp_path: Path):
    good, *_ = jpegs(1)
    source = Source([good, b"bad", b"worse"], np.zeros(3, np.int64), ("a", "b"), "photos")
    with pytest.raises(SourceError, match=r"^photos, picture 1: .*take it out, or replace it$"):
        read(source, tmp_path)
    arrays = Source(np.zeros((2, 32, 32, 5), np.uint8), np.zeros(2, np.int64), ("a", "b"), "arrays")
    with pytest.raises(SourceError, match=r"^arrays, picture 0: "):
        read(arrays, tmp_path)


def test_more_pictures_than_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(datasets, "DECODE_CHUNK", 4)
    found = read(open_source(archive_of_pictures(tmp_path / "m.npz", 11)), tmp_path)
    assert np.array_equal(found.pictures, pictures(11)[0].transpose(0, 3, 1, 2))


# Splits


@given(count=st.integers(2, 200), share=st.floats(0.001, 0.5), seed=st.integers(0, 2**32))
def test_splits(count: int, share: float, seed: int):
    whole = Dataset(np.arange(count * 3, dtype=np.uint8).reshape(count, 3, 1, 1), np.arange(count), ("a",), "x")
    train, test = split(whole, share, seed)
    parts = [part.take(np.arange(len(part))) for part in (train, test)]
    labels = [labels for _, labels in parts]
    assert sorted(np.concatenate(labels)) == list(range(count))
    assert len(test) == max(1, round(share * count))
    for images, own in parts:
        assert np.array_equal(images, whole.pictures[own])
    again = split(whole, share, seed)
    assert all(np.array_equal(one.which, two.which) for one, two in zip((train, test), again, strict=True))


def test_splits_depend_on_the_seed():
    whole = dataset(100)
    held_out = {tuple(split(whole, 0.2, seed)[1].which.tolist()) for seed in range(5)}
    assert len(held_out) == 5


def test_taking_pictures():
    whole = dataset(20)
    train, _ = split(whole, 0.5, 1)
    which = np.array([7, 0, 7])
    images, labels = train.take(which)
    assert np.array_equal(images, whole.pictures[train.which[which]])
    assert np.array_equal(labels, whole.labels[train.which[which]])
    assert images.flags.writeable


# Folders as people have them


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "TEST"), ("training", "validation", "test"), ("train",)])
def test_parts_of_a_data_set_are_not_classes(names: tuple[str, ...], tmp_path: Path):
    for name in names:
        folder_of_pictures(tmp_path / name, 4, classes=2)
    with pytest.raises(SourceError, match=rf"found the parts of a data set: {'.*'.join(sorted(names))}; give .*--test"):
        open_source(tmp_path)
    assert len(open_source(tmp_path / names[0]).labels) == 4


def test_a_class_may_be_called_train(tmp_path: Path):
    for name in ("train", "car"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "x.png")
    assert open_source(tmp_path).classes == ("car", "train")


def test_what_systems_leave_behind_is_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder_of_pictures(tmp_path, 4, classes=2)
    for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", ".ipynb_checkpoints"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    (tmp_path / "red" / "._000.png").touch()
    (tmp_path / "red" / "README.txt").touch()
    (tmp_path / "labels.csv").touch()
    source = open_source(tmp_path)
    assert (source.classes, len(source.labels)) == (("green", "red"), 4)
    assert caplog.messages == [f"{tmp_path}: 3 left out, not pictures by name: 1 .csv, 1 .txt, 1 hidden"]


def test_class_names_that_a_model_cannot_have(tmp_path: Path):
    for name in ("cat", "do\x1bg"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "x.png")
    with pytest.raises(SourceError, match=r"expected class names of printable characters, found 'do\\x1bg'; rename"):
        open_source(tmp_path)
    names = np.array(["red", "green", "b\u202elue"])
    with pytest.raises(SourceError, match=r"expected class names of printable characters, found 'b\\u202elue'"):
        open_source(archive_of_pictures(tmp_path / "m.npz", 6, classes=names))


def test_names_that_cannot_be(tmp_path: Path):
    for name in ("x" * 300, "a\0b", "x" * 300 + ".npz"):
        with pytest.raises(SourceError, match="found no such file"):
            open_source(tmp_path / name)
