"""``fracbnn overlays``: list, fetch from a folder, check. Nothing here uses the network."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from click.testing import CliRunner

from fracbnn_pynq.cli import group, overlays
from fracbnn_pynq.errors import DownloadError, OverlayError
from fracbnn_pynq.published import catalog
from fracbnn_pynq.published.catalog import CIFAR10_OVERLAY, IMAGENET_OVERLAY, PublishedFile
from fracbnn_pynq.simulator import write_overlay


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no way to the network."""
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FRACBNN_DOWNLOAD_BASE", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder with two small overlays, which the catalogue takes for the published ones."""
    folder = tmp_path / "stick"
    stand_ins = []
    for overlay in (CIFAR10_OVERLAY, IMAGENET_OVERLAY):
        bit = write_overlay(folder, overlay.network)
        files = []
        for role, path in (("bitstream", bit), ("handoff", bit.with_suffix(".hwh"))):
            content = path.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            files.append(PublishedFile(role=role, path=f"deploy/{path.name}", git_blob=blob))
        stand_ins.append(dataclasses.replace(overlay, files=tuple(files)))
    monkeypatch.setattr(catalog, "OVERLAYS", tuple(stand_ins))
    monkeypatch.setattr(overlays, "OVERLAYS", tuple(stand_ins))
    return folder


def run(*arguments):
    return CliRunner().invoke(group, ["overlays", *arguments])


def parts(result):
    """stdout and stderr, with any version of click."""
    return result.stdout, result.stderr


def test_the_list_says_state_part_clock_model_arithmetic_licence():
    for result in (run(), run("list")):
        assert result.exit_code == 0
        for text in (
            "missing: fracbnn overlays fetch cifar10",
            "xczu3eg-sbva484, 250 MHz",
            "cifar10-authors",
            "cifar10-2020",
            "imagenet-2021",
            "states no licence",
            "49.0 %",
        ):
            assert text in result.output


def test_the_list_as_json(cache):
    facts = json.loads(run("list", "--json").output)
    assert [fact["name"] for fact in facts] == ["cifar10-overlay", "imagenet-overlay"]
    assert [fact["state"] for fact in facts] == ["missing", "missing"]
    assert [fact["model"] for fact in facts] == ["cifar10-authors", None]
    assert facts[0]["clock_mhz"] == 250.0
    assert facts[0]["licence"] is None
    assert facts[0]["folder"] == str(cache / "cifar10-overlay")


@pytest.mark.parametrize("name", ["cifar10", "cifar10-overlay"])
def test_fetch_from_a_folder(source, cache, name):
    result = run("fetch", name, "--from", str(source))
    assert result.exit_code == 0, result.output
    stdout, stderr = parts(result)
    assert "states no licence" in stderr
    assert stdout.splitlines() == [str(cache / "cifar10-overlay" / f"FracNet_T_0.{end}") for end in ("bit", "hwh")]
    assert (cache / "cifar10-overlay" / "FracNet_T_0.bit").read_bytes() == (source / "FracNet_T_0.bit").read_bytes()
    assert [fact["state"] for fact in json.loads(run("list", "--json").output)] == ["ok", "missing"]


def test_fetch_from_a_file_as_json(source, cache):
    result = run("fetch", "imagenet", "--from", str(source / "FracNet_0.bit"), "--json")
    stdout, stderr = parts(result)
    assert json.loads(stdout) == {
        "name": "imagenet-overlay",
        "files": {
            "bitstream": str(cache / "imagenet-overlay" / "FracNet_0.bit"),
            "handoff": str(cache / "imagenet-overlay" / "FracNet_0.hwh"),
        },
    }
    assert "states no licence" in stderr


def test_the_notice_comes_before_the_fetch_even_when_that_fails(source, tmp_path):
    result = run("fetch", "cifar10", "--from", str(tmp_path / "nowhere"))
    assert isinstance(result.exception, DownloadError)
    assert "states no licence" in parts(result)[1]


def test_files_that_are_not_the_published_ones_are_refused(tmp_path):
    write_overlay(tmp_path / "other", "cifar10")
    result = run("fetch", "cifar10", "--from", str(tmp_path / "other"))
    assert isinstance(result.exception, DownloadError)
    assert "not the published FracNet_T_0.bit" in str(result.exception)


def test_an_unknown_name_is_refused():
    for arguments in (("fetch", "mnist"), ("check", "mnist")):
        result = run(*arguments)
        assert isinstance(result.exception, OverlayError)
        assert "cifar10" in str(result.exception)


def test_check_of_what_is_not_there():
    assert run("check").exit_code == 0
    assert "not fetched" in run("check").output
    result = run("check", "cifar10", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["ok"] is False


def test_check_of_fetched_overlays(source):
    for name in ("cifar10", "imagenet"):
        assert run("fetch", name, "--from", str(source)).exit_code == 0
    result = run("check", "cifar10", "imagenet")
    assert result.exit_code == 0, result.output
    assert result.output.count("as published") == 2
    assert "error" not in result.output
    data = json.loads(run("check", "--json").output)
    assert data["ok"] is True
    names = [check["name"] for check in data["groups"][0]["checks"]]
    assert names == ["files", "file names", "bitstream", "hand-off file", "core", "design clock", "part"]


def test_check_of_a_damaged_overlay(source, cache):
    run("fetch", "cifar10", "--from", str(source))
    path = cache / "cifar10-overlay" / "FracNet_T_0.bit"
    path.write_bytes(path.read_bytes()[:-4])
    result = run("check")
    assert result.exit_code == 1
    assert "FracNet_T_0.bit damaged" in result.output
    assert "damaged" in run("list").output
