"""The catalogue of published files against the facts it transcribes, and its accessors."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from fracbnn_pynq.errors import DownloadError, ModelError, OverlayError
from fracbnn_pynq.networks import NETWORKS
from fracbnn_pynq.published import catalog


def test_catalogue_equals_the_published_facts(shared: Path):
    published = json.loads((shared / "golden" / "published_artifacts.json").read_text())
    assert {artifact.name for artifact in catalog.ARTIFACTS} == set(published)
    for artifact in catalog.ARTIFACTS:
        facts = published[artifact.name]
        assert (artifact.repository, artifact.commit) == (facts["repository"], facts["commit"])
        assert artifact.licence == facts["license"]
        assert {file.path for file in artifact.files} == set(facts["files"])
        for file in artifact.files:
            known = {"size": file.size, "sha256": file.sha256, "git_blob": file.git_blob}
            assert {key: value for key, value in known.items() if value is not None} == facts["files"][file.path]


@pytest.mark.parametrize(("name", "file"), [("cifar10", "FracNet_T_0.hwh"), ("imagenet", "0503.hwh")])
def test_overlays_equal_their_handoff_files(shared: Path, name: str, file: str):
    overlay = catalog.get_overlay(name)
    assert overlay.file("handoff").name == file
    system = ET.parse(shared / "golden" / file).getroot()
    info = system.find("SYSTEMINFO")
    assert info is not None
    assert info.get("DEVICE") == overlay.part.split("-")[0]
    assert info.get("PACKAGE") == overlay.part.split("-")[1]
    cores = [module for module in system.iter("MODULE") if module.get("VLNV") == overlay.vlnv]
    assert [module.get("INSTANCE") for module in cores] == [overlay.core.instance]
    clock = next(item for item in system.iter("PARAMETER") if item.get("NAME") == "PSU__FPGA_PL0_ENABLE")
    assert clock.get("VALUE") == "1"
    rates = [item for item in system.iter("PARAMETER") if item.get("NAME") == "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"]
    assert [float(item.get("VALUE", "")) for item in rates] == [overlay.clock_mhz]


@pytest.mark.parametrize("artifact", catalog.ARTIFACTS, ids=lambda artifact: artifact.name)
def test_every_artifact_is_complete(artifact: catalog.Artifact):
    assert artifact.network in NETWORKS
    assert re.fullmatch(r"[0-9a-f]{40}", artifact.commit)
    assert artifact.title
    assert artifact.note.endswith(".")
    for field in ("role", "path", "name", "git_blob"):
        values = [getattr(file, field) for file in artifact.files]
        assert len(set(values)) == len(values)
    for file in artifact.files:
        assert re.fullmatch(r"[0-9a-f]{40}", file.git_blob)
        assert (file.sha256 is None) == (file.size is None)
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert artifact.file(file.role) is file
    with pytest.raises(dataclasses.FrozenInstanceError):
        artifact.commit = "0" * 40  # type: ignore[misc]


def test_accessors():
    assert catalog.get_overlay("cifar10") is catalog.get_overlay("cifar10-overlay") is catalog.CIFAR10_OVERLAY
    assert catalog.get_overlay("imagenet").arithmetic == "imagenet-2021"
    assert catalog.get_overlay("cifar10").arithmetic == "cifar10-2020"
    assert catalog.get_overlay("cifar10").model == "cifar10-authors"
    assert catalog.get_overlay("imagenet").model is None
    assert catalog.get_weights("cifar10-authors") is catalog.CIFAR10_WEIGHTS
    assert catalog.get_weights("cifar10-prebuilt-weights") is catalog.CIFAR10_PREBUILT_WEIGHTS
    assert catalog.get_weights("imagenet-authors") is catalog.IMAGENET_WEIGHTS
    for artifact in catalog.ARTIFACTS:
        assert catalog.get_artifact(artifact.name) is artifact


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(DownloadError, match=r"'nothing'.*cifar10-overlay.*imagenet-weights"):
        catalog.get_artifact("nothing")
    with pytest.raises(OverlayError, match=r"'mnist'.*cifar10 \(cifar10-overlay\)"):
        catalog.get_overlay("mnist")
    with pytest.raises(ModelError, match=r"'mnist'.*cifar10-authors, imagenet-authors$"):
        catalog.get_weights("mnist")
    with pytest.raises(DownloadError, match=r"'licence'.*bitstream, handoff"):
        catalog.CIFAR10_OVERLAY.file("licence")


def test_urls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(catalog.DOWNLOAD_BASE_VARIABLE, raising=False)
    overlay = catalog.IMAGENET_OVERLAY
    file = overlay.file("bitstream")
    tail = "pjh177787/FracNetHLS/f55f1dbd7aa1f17d015f428e71bbfab12d99192f/FracNet_Deploy/0503.bit"
    assert overlay.url(file) == f"https://raw.githubusercontent.com/{tail}"
    monkeypatch.setenv(catalog.DOWNLOAD_BASE_VARIABLE, "http://mirror.example/files/")
    assert overlay.url(file) == f"http://mirror.example/files/{tail}"
    assert overlay.url(file, "https://other.example") == f"https://other.example/{tail}"
    spaced = dataclasses.replace(file, path="a b/c#d.bit")
    assert overlay.url(spaced, "https://x.example").endswith("/a%20b/c%23d.bit")
    with pytest.raises(DownloadError, match="found 'ftp://x'"):
        overlay.url(file, "ftp://x")
