"""The web page's files: what is sent, with which headers, to whom."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from fracbnn_pynq.service.page import PAGE_PATHS
from fracbnn_pynq.service.settings import Settings
from service_support import client_of

from fracbnn_pynq import Classifier

TYPES = {
    "/": "text/html; charset=utf-8",
    "/page/page.css": "text/css; charset=utf-8",
    "/page/page.js": "text/javascript; charset=utf-8",
    "/page/planes.js": "text/javascript; charset=utf-8",
    "/page/service.js": "text/javascript; charset=utf-8",
    "/page/cat.jpg": "image/jpeg",
}
TEXTS = [path for path in TYPES if not path.endswith(".jpg")]
FOLDER = Path(__file__).resolve().parents[1] / "service" / "page"


class Page(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def values(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def client():
    with Classifier.load("cifar10", backend="cpu") as classifier, client_of({"cifar10": classifier}) as client:
        yield client


@pytest.fixture(scope="module")
def guarded():
    settings = Settings(token="correct-horse")
    with Classifier.load("cifar10", backend="cpu") as loaded, client_of({"cifar10": loaded}, settings) as client:
        yield client


@pytest.fixture(scope="module")
def page(client):
    return Page(client.get("/").text)


def test_every_file_of_the_page_is_served():
    assert set(PAGE_PATHS) == set(TYPES)
    served = {"index.html" if path == "/" else path.rpartition("/")[2] for path in PAGE_PATHS} - {"cat.jpg"}
    assert served == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("path", TYPES)
def test_files_have_their_type_and_are_asked_for_again(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == TYPES[path]
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert int(answer.headers["content-length"]) == len(answer.content) > 0


def test_files_are_those_of_the_package(client, cat):
    assert client.get("/page/cat.jpg").content == cat.read_bytes()
    for path in TEXTS:
        assert client.get(path).content == (FOLDER / (path.rpartition("/")[2] or "index.html")).read_bytes()


@pytest.mark.parametrize("path", TYPES)
def test_a_file_that_the_browser_has_is_not_sent_again(client, path):
    tag = client.get(path).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_files_have_tags_of_their_own(client):
    assert len({client.get(path).headers["etag"] for path in TYPES}) == len(TYPES)


@pytest.mark.parametrize("path", TYPES)
def test_the_browser_is_told_to_load_nothing_from_elsewhere(client, path):
    rules = [rule.split() for rule in client.get(path).headers["content-security-policy"].split(";")]
    policy = {name: sources for name, *sources in rules}
    assert policy["default-src"] == ["'self'"]
    assert policy["img-src"] == ["'self'", "blob:", "data:"]
    assert policy["media-src"] == ["blob:"]
    assert policy["frame-ancestors"] == policy["base-uri"] == ["'none'"]
    assert "script-src" not in policy
    assert "style-src" not in policy


def test_other_paths_and_methods_are_refused(client):
    for path in ("/page/", "/page", "/page/index.html", "/page/../page.py", "/page/%2e%2e/page.py", "/page/nothing"):
        assert client.get(path).status_code == 404, path
    assert client.post("/").status_code == 405


def test_the_page_is_no_part_of_the_interface_for_programs(client):
    assert not set(PAGE_PATHS) & set(client.get("/openapi.json").json()["paths"])


def test_the_page_needs_no_token_and_the_service_behind_it_does(guarded, cat):
    for path in TYPES:
        assert guarded.get(path).status_code == 200
    for path in ("/page/page.py", "/page/", "/page", "/v2/models"):
        assert guarded.get(path).status_code == 401
    assert guarded.post("/v1/classify", content=cat.read_bytes()).status_code == 401
    token = {"Authorization": "Bearer correct-horse"}
    assert guarded.post("/v1/classify", content=cat.read_bytes(), headers=token).json()["label"] == "cat"


def test_what_the_page_refers_to_exists(client, page):
    targets = [target for target in page.values("src") + page.values("href") if not target.startswith("data:")]
    assert {"page/page.css", "page/page.js"} <= set(targets)
    for target in targets:
        assert client.get("/" + target).status_code == 200, target
    asked = set()
    for path in TEXTS:
        text = client.get(path).text
        for module in re.findall(r'from "([^"]+)"', text):
            assert client.get(urljoin(path, module)).status_code == 200
        asked |= set(re.findall(r'"((?:page|v1|v2)/[\w/.]+)"', text)) | set(re.findall(r"`(v[12]/[\w/]+)", text))
    assert asked >= {"page/cat.jpg", "v1/classify", "v2/models"}
    for address in asked - {"v2/models/"}:
        assert client.get("/" + address).status_code in (200, 405), address


@pytest.mark.parametrize("path", TEXTS)
def test_nothing_outside_is_named(client, path):
    text = client.get(path).text
    named = re.findall(r"""\w+://[\w.-]*|["'(=]//[\w.-]*""", text)
    assert named == (["http://localhost"] if path == "/page/page.js" else [])
    assert not re.search(r"@import|url\(", text)


def test_the_page_has_no_inline_code_or_style(page):
    for tag, attributes in page.elements:
        assert tag != "style"
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert tag != "script" or attributes.get("src")


def test_controls_are_labelled_and_ids_are_unique_and_present(client, page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    labelled = set(page.values("for"))
    for tag, attributes in page.elements:
        if tag in ("input", "select"):
            assert attributes["id"] in labelled
    script = client.get("/page/page.js").text
    used = set(re.findall(r'(?:byId|show|fill|stage)\("([\w-]+)"', script))
    assert len(used) > 15
    assert used | labelled | set(page.values("aria-labelledby")) <= set(ids)
