"""What ``fracbnn bulk`` reads and writes, without a cluster: sources, hostile archives, partitions, the dataset."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import resource
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bulk_support import drawn, logits_of, named, write_folder, write_tar

try:
    import distributed  # noqa: F401
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:  # also of a pyarrow that does not work with the NumPy here
    pytest.skip(f"the extra bulk is not installed: {error}", allow_module_level=True)

from fracbnn_pynq import Classifier
from fracbnn_pynq.bulk import items, partitions, tasks
from fracbnn_pynq.bulk.dataset import LabelDataset
from fracbnn_pynq.bulk.items import File, Item, Slice, Unreadable, brought
from fracbnn_pynq.bulk.sources import open_sources
from fracbnn_pynq.bulk.tasks import Labelled, Settings, Work
from fracbnn_pynq.errors import AcceleratorTimeoutError, BackendError, PictureError, SourceError
from fracbnn_pynq.modelfile import dump_model
from fracbnn_pynq.models import find_model


def listed(*paths: Path, column: str | None = None) -> list[Item]:
    return [item for source in open_sources(paths, column) for item in source.items()]


def contents(*paths: Path, column: str | None = None) -> dict[str, bytes | str]:
    """Bytes, or the error, by name."""
    found = [brought(item) for item in listed(*paths, column=column)]
    return {item.name: item.place.error if isinstance(item.place, Unreadable) else item.place for item in found}


def test_a_folder_is_walked_in_order(tmp_path: Path):
    write_folder(tmp_path / "p", {"b.jpg": b"1", "a/z.png": b"22", "a/c.jpg": b"3", ".h.jpg": b"", "notes.txt": b""})
    found = listed(tmp_path / "p")
    assert [item.name for item in found] == [str(tmp_path / "p" / name) for name in ("b.jpg", "a/c.jpg", "a/z.png")]
    assert [item.size for item in found] == [1, 1, 2]
    assert open_sources([tmp_path / "p"])[0].count == 3


def test_names_are_as_given_and_places_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_folder(tmp_path / "p", {"b.jpg": b"1"})
    monkeypatch.chdir(tmp_path)
    (item,) = listed(Path("p"))
    assert (item.source, item.name) == ("p", "p/b.jpg")
    assert item.place == File(str(tmp_path / "p" / "b.jpg"))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_are_what_tarfile_says(tmp_path: Path, mode: str, form: int):
    members = {f"{'d' * 60}/{'e' * 60}/{n}.jpg": os.urandom(n * 171) for n in range(1, 12)}
    members["x/ü ä.png"] = b"u" * 512
    if form != tarfile.USTAR_FORMAT:
        members[f"{'long' * 80}.jpg"] = b"long"
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        archive.addfile(_info("x", kind=tarfile.DIRTYPE))
        for name, data in members.items():
            archive.addfile(_info(name, len(data)), io.BytesIO(data))
        archive.addfile(_info("labels.txt", 3), io.BytesIO(b"abc"))
    assert contents(path) == members
    kinds = {type(item.place) for item in listed(path)}
    assert kinds == ({Slice} if mode == "w" else {bytes})


def _info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info


def test_hostile_members_are_rows_with_errors(tmp_path: Path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(_info("../../up.jpg", 2), io.BytesIO(b"up"))
        archive.addfile(_info("/etc/abs.jpg", 3), io.BytesIO(b"abs"))
        for name, kind in (
            ("s", tarfile.SYMTYPE),
            ("l", tarfile.LNKTYPE),
            ("d", tarfile.CHRTYPE),
            ("f", tarfile.FIFOTYPE),
        ):
            archive.addfile(_info(f"{name}.jpg", kind=kind, target="/etc/passwd"))
        archive.addfile(_info("__MACOSX/._x.jpg", 1), io.BytesIO(b"x"))
        archive.addfile(_info("last.jpg", 4), io.BytesIO(b"last"))
    assert contents(path) == {
        "../../up.jpg": b"up",
        "/etc/abs.jpg": b"abs",
        "s.jpg": "expected a regular file, found a symbolic link",
        "l.jpg": "expected a regular file, found a hard link",
        "d.jpg": "expected a regular file, found a device",
        "f.jpg": "expected a regular file, found a pipe",
        "last.jpg": b"last",
    }
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_huge_members_are_not_read(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(items, "MAX_ENCODED", 1000)
    monkeypatch.setattr("fracbnn_pynq.bulk.tars.MAX_ENCODED", 1000)
    path = write_tar(tmp_path / "a.tar", {"big.jpg": b"b" * 1001, "small.jpg": b"s"}, mode)
    assert contents(path) == {"big.jpg": "expected a picture of at most 1000 bytes, found 1001", "small.jpg": b"s"}


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, kind: bytes):
    head = _info("x", 4 << 30, kind).tobuf(tarfile.GNU_FORMAT)
    packer = zlib.compressobj(9, wbits=31)
    path = tmp_path / "a.tar.gz"
    with open(path, "wb") as stream:
        stream.write(packer.compress(head))
        for _ in range(64):
            stream.write(packer.compress(bytes(1 << 20)))
        stream.write(packer.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (found,) = contents(path).values()
    assert found == f"after 0 members: expected a header of at most 1048576 bytes, found {4 << 30}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10  # KiB


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_an_archive_cut_short_gives_what_is_whole_and_one_error(tmp_path: Path, mode: str, share: float):
    members = {f"{n}.jpg": os.urandom(900) for n in range(40)}
    path = write_tar(tmp_path / "a.tar", members, mode)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share) // 512 * 512])  # often between two members, if it is not packed
    found = contents(path)
    (name, error), *whole = reversed(found.items())
    assert name.startswith("member ")
    assert isinstance(error, str)
    assert error.startswith(f"after {len(whole)} members: ")
    assert dict(whole).items() <= members.items()
    assert 5 < len(whole) < 40


@pytest.mark.parametrize(
    "data",
    [b"", b"no tar" * 200, gzip.compress(b"no tar" * 200), b"\x1f\x8b junk", bytes([0x80] * 5120)],
    ids=["empty", "no tar", "no tar in gzip", "no gzip", "numbers"],  # gzip writes the time, which differs by process
)
def test_what_is_no_archive_is_one_error(tmp_path: Path, data: bytes):
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    (item,) = listed(path)
    assert isinstance(item.place, Unreadable)


def test_damaged_archives_never_raise_anything_else(tmp_path: Path):
    rng = np.random.default_rng(1)
    clean = bytearray(write_tar(tmp_path / "a.tar", named(6)).read_bytes())
    for _ in range(300):
        data = bytearray(clean)
        for place in rng.integers(0, len(data), 6):
            data[place] = rng.integers(0, 256)
        head = 512 * int(rng.integers(0, 8))
        data[head + 124 : head + 136] = rng.choice(
            [b"\x80" + b"\xff" * 11, b"77777777777\0", b"-1         \0", b"0" * 12]
        )
        (tmp_path / "a.tar").write_bytes(data)
        assert len(listed(tmp_path / "a.tar")) <= 20


def test_a_sparse_member_is_refused_and_the_next_one_read(tmp_path: Path):
    head = bytearray(_info("hole.jpg", 512, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    head[482] = 1  # one more block of the map follows
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    data = bytes(head) + bytes(512) + b"h" * 512 + _info("b.jpg", 1).tobuf() + b"b" + bytes(511 + 1024)
    (tmp_path / "a.tar").write_bytes(data)
    assert contents(tmp_path / "a.tar") == {"hole.jpg": "expected a regular file, found a sparse file", "b.jpg": b"b"}


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def test_parquet_columns_of_bytes_paths_and_both(tmp_path: Path):
    write_folder(tmp_path, {"a.jpg": b"A"})
    path = parquet(tmp_path / "b.parquet", image=[b"1", None, b"3"], label=[1, 2, 3])
    assert contents(path) == {"row 0": b"1", "row 1": "expected a picture, found nothing", "row 2": b"3"}
    path = parquet(tmp_path / "p.parquet", file=["a.jpg", "none.jpg"], n=[1, 2])
    assert contents(path) == {"a.jpg": b"A", "none.jpg": "expected a picture file, found no file of this name"}
    both = pa.array([{"bytes": b"1", "path": "x.png"}, {"bytes": None, "path": "a.jpg"}, {"bytes": b"3", "path": None}])
    path = parquet(tmp_path / "h.parquet", image=both, other=["a", "b", "c"])
    assert contents(path) == {"x.png": b"1", "a.jpg": b"A", "row 2": b"3"}
    path = parquet(tmp_path / "d.parquet", image=pa.array([b"1", b"1", b"2"]).dictionary_encode())
    assert contents(path) == {"row 0": b"1", "row 1": b"1", "row 2": b"2"}


def test_the_column_must_be_clear(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", one=[b"1"], two=[b"2"], three=["c"], four=[4])
    with pytest.raises(SourceError, match="expected one column of bytes, found one, two; choose one with --column"):
        open_sources([path])
    assert contents(path, column="two") == {"row 0": b"2"}
    for wrong, found in (("four", "type int64"), ("five", "columns one, two, three, four")):
        with pytest.raises(SourceError, match=f"expected a column '{wrong}' of bytes or paths, found {found}"):
            open_sources([path], wrong)
    with pytest.raises(SourceError, match="expected a column of encoded pictures or of paths, found four"):
        open_sources([parquet(tmp_path / "b.parquet", four=[4])])


def test_damaged_parquet_is_one_error(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", image=list(drawn(40)))
    data = bytearray(path.read_bytes())
    data[2000:9000] = os.urandom(7000)
    path.write_bytes(data)
    errors = [text for text in contents(path).values() if isinstance(text, str)]
    assert len(errors) <= 1  # bytes of pictures may be damaged without the file being so
    path.write_bytes(data[:3000])
    with pytest.raises(SourceError, match="expected a whole Parquet file"):
        open_sources([path])


def test_sources_that_are_not_there_or_there_twice(tmp_path: Path):
    folder = write_folder(tmp_path / "p", {"a/b.jpg": b"1"})
    for path, match in (("none.jpg", "no such file"), ("https://x.org/a.jpg", "found a URL"), (tmp_path, "lies in")):
        with pytest.raises(PictureError, match=match):
            open_sources([folder, path])
    with pytest.raises(PictureError, match="lies in"):
        open_sources([folder, folder / "a" / "b.jpg"])
    assert len(open_sources([folder, folder, f"{folder}/"])) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="found none"):
        open_sources([tmp_path / "empty"])
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(PictureError, match="found a folder or a device"):
        open_sources([tmp_path / "pipe.tar"])


def test_a_source_says_that_it_has_changed(tmp_path: Path):
    folder = write_folder(tmp_path / "p", {"a.jpg": b"1"})
    tar = write_tar(tmp_path / "a.tar", {"a.jpg": b"1"})
    table = parquet(tmp_path / "a.parquet", image=[b"1"])
    sources = open_sources([folder, tar, table])
    for source in sources:
        source.check_unchanged()
    write_folder(folder, {"b.jpg": b"1"})
    os.utime(tar, ns=(1, 1))
    os.utime(table, ns=(1, 1))
    for source in sources:
        with pytest.raises(SourceError, match="changed while it was read"):
            source.check_unchanged()


def test_partitions_are_bounded_and_have_everything_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes = [300, 300, 300, 300, 5000, 10, 10, 10, 10, 10, 10]
    path = write_tar(tmp_path / "a.tar", {f"{n:02d}.jpg": bytes(size) for n, size in enumerate(sizes)})
    monkeypatch.setattr(partitions, "MOST_BYTES", 1000)
    found = list(partitions.partitions(open_sources([path]), 4))
    assert [len(each.items) for each in found] == [3, 1, 1, 4, 2]
    assert [each.number for each in found] == [0, 1, 2, 3, 4]
    assert [item.name for each in found for item in each.items] == [f"{n:02d}.jpg" for n in range(11)]


def labelled(count: int, errors: dict[int, str], logits: bool = True) -> Labelled:
    good = count - len(errors)
    values = np.random.default_rng(0).standard_normal((good, 3)).astype(np.float32)
    order = np.argsort(-values, axis=1)[:, :2].astype(np.int32)
    scores = np.take_along_axis(values, order, axis=1).astype(np.float64)
    return Labelled(order, scores, values if logits else None, errors, "w", 1.0, 0.5)


@pytest.mark.parametrize("errors", [{}, {0: "no\udcff"}, {1: "no", 3: "no"}, dict.fromkeys(range(4), "no")])
def test_rows_of_a_partition(tmp_path: Path, errors: dict[int, str]):
    of = [Item("s", f"{n}\udcff.jpg", 1, b"") for n in range(4)]
    found = labelled(4, errors)
    with LabelDataset(tmp_path / "out", ["a", "b", "c"], logits=True) as dataset:
        dataset.agree({})
        dataset.write(0, of, found)
        assert dataset.errors_of(0, 4) == len(errors)
        assert dataset.errors_of(1, 4) is None
        with pytest.raises(SourceError, match="expected 5 pictures, found 4"):
            dataset.errors_of(0, 5)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    good = 0
    for number, row in enumerate(rows):
        assert (row["source"], row["name"]) == ("s", f"{number}\\udcff.jpg")
        if number in errors:
            assert row["error"] == errors[number].replace("\udcff", "\\udcff")
            assert {row[key] for key in ("label", "class_index", "score", "top_labels", "top_scores", "logits")} == {
                None
            }
            continue
        classes = found.classes[good].tolist()
        assert row["error"] is None
        assert (row["class_index"], row["label"]) == (classes[0], "abc"[classes[0]])
        assert row["top_labels"] == ["abc"[index] for index in classes]
        assert row["top_scores"] == found.scores[good].tolist() == [row["score"], row["top_scores"][1]]
        assert np.array_equal(np.array(row["logits"], np.float32), found.logits[good])
        good += 1


def test_the_output_is_refused_where_it_is_anothers(tmp_path: Path):
    out = tmp_path / "out"
    with LabelDataset(out, ["a"], logits=False) as dataset:
        dataset.agree({"sources": [{"path": "a"}, {"path": "b"}], "partition": 5})
        with pytest.raises(SourceError, match="another run is writing"):
            LabelDataset(out, ["a"], logits=False)
        (out / ".part-00000.parquet.stale").touch()
    with LabelDataset(out, ["a"], logits=False) as dataset:
        assert not list(out.glob(".part*"))
        dataset.agree({"sources": [{"path": "a"}, {"path": "b"}], "partition": 5})
        with pytest.raises(SourceError, match="with partition 5, found 6; give the same sources"):
            dataset.agree({"sources": [{"path": "a"}, {"path": "b"}], "partition": 6})
        with pytest.raises(SourceError, match=r'with sources \{"path": "b"\}, found \{"path": "c"\}'):
            dataset.agree({"sources": [{"path": "a"}, {"path": "c"}], "partition": 5})
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="found a file"):
        LabelDataset(tmp_path / "file", ["a"], logits=False)
    with pytest.raises(SourceError, match="found others' files"):
        LabelDataset(tmp_path, ["a"], logits=False)
    for text in ("{", "[]", '{"format": 1}'):
        (out / "_fracbnn-bulk.json").write_text(text)
        with LabelDataset(out, ["a"], logits=False) as dataset, pytest.raises(SourceError, match="found another file"):
            dataset.agree({})


def test_an_empty_folder_made_for_nothing_goes_again(tmp_path: Path):
    LabelDataset(tmp_path / "out", ["a"], logits=False).close()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Offered to the tasks of this process."""
    names = {"backend": "cpu", "board": "auto", "overlay": "auto", "arithmetic": "auto"}
    made = Settings("k", dump_model(find_model("cifar10")), "cifar10", **names, threads=1, top=5, logits=True)
    tasks.offer(made)
    yield made
    tasks.withdraw("k")


def test_a_task_is_the_classifier(settings: Settings):
    pictures = drawn(70)
    places = (pictures[0], Unreadable("gone"), b"junk", *pictures[1:])
    found = tasks.label(Work("k", places, "faithful"))
    assert found.errors.keys() == {1, 2}
    assert found.errors[1] == "gone"
    assert found.errors[2].startswith("expected a picture in a format")
    expected = logits_of(pictures)
    assert found.logits is not None
    assert found.logits.tobytes() == expected.tobytes()
    with Classifier.load("cifar10", backend="cpu") as classifier:
        for classes, scores, row in zip(found.classes, found.scores, classifier.rank(expected), strict=True):
            assert [(classifier.labels[c], s) for c, s in zip(classes, scores, strict=True)] == row
    assert tasks.label(Work("k", (b"junk",), "faithful")).classes.shape == (0, 5)


def test_other_arithmetics_and_unknown_runs_are_refused(settings: Settings):
    with pytest.raises(
        BackendError, match="expected arithmetic cifar10-2021, as the other results are, found faithful"
    ):
        tasks.label(Work("k", (), "cifar10-2021"))
    with pytest.raises(BackendError, match="expected the settings of run other, found none"):
        tasks.label(Work("other", (), "faithful"))


def test_a_faulty_board_is_opened_anew_for_the_next_task(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    work = Work("k", drawn(2), "faithful")
    first = tasks._classifier("k")[1]
    monkeypatch.setattr(first, "logits", lambda images: (_ for _ in ()).throw(AcceleratorTimeoutError("late")))
    with pytest.raises(AcceleratorTimeoutError):
        tasks.label(work)
    assert tasks.label(work).logits is not None
    assert tasks._classifier("k")[1] is not first
    with pytest.raises(BackendError, match="closed"):
        first.classify(drawn(1)[0])


def test_errors_cross_from_worker_to_command():
    error = pickle.loads(pickle.dumps(BackendError("found none", advice="get one")))
    assert str(error) == "found none; get one"
