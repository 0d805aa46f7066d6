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

from fracbnn_pynq.service.page import PAGE_PATHS, SCRIPTS
from fracbnn_pynq.service.settings import Settings
from service_support import client_of

from fracbnn_pynq import Classifier, camera

PAGES = {"/": "index.html", "/camera": "camera.html", "/docs": "docs.html"}
TYPES = {
    **dict.fromkeys(PAGES, "text/html; charset=utf-8"),
    "/page/page.css": "text/css; charset=utf-8",
    **{f"/page/{name}.js": "text/javascript; charset=utf-8" for name in SCRIPTS},
    "/page/cat.jpg": "image/jpeg",
}
NO_SUCH_CAMERA = "/dev/no-such-camera"
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


@pytest.fixture(scope="module", autouse=True)
def opencv():
    """Nobody watches here, so that OpenCV need not be installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camera, "opencv", lambda: None)
        yield


@pytest.fixture(scope="module")
def client():
    settings = Settings(camera=NO_SUCH_CAMERA)
    with Classifier.load("cifar10", backend="cpu") as loaded, client_of({"cifar10": loaded}, settings) as client:
        yield client


@pytest.fixture(scope="module")
def guarded():
    settings = Settings(token="correct-horse", camera=NO_SUCH_CAMERA)
    with Classifier.load("cifar10", backend="cpu") as loaded, client_of({"cifar10": loaded}, settings) as client:
        yield client


@pytest.fixture(params=PAGES)
def page(client, request):
    return Page(client.get(request.param).text)


def test_every_file_of_the_page_is_served():
    assert set(PAGE_PATHS) == {*TYPES, "/docs", "/page/docs.js"}
    served = {{**PAGES, "/docs": "docs.html"}.get(path, path.rpartition("/")[2]) for path in PAGE_PATHS} - {"cat.jpg"}
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
        assert client.get(path).content == (FOLDER / PAGES.get(path, path.rpartition("/")[2])).read_bytes()


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
    for path in (
        "/page/",
        "/page",
        "/page/index.html",
        "/page/none.js",
        "/camera/",
        "/page/../page.py",
        "/page/%2e%2e/page.py",
        "/page/nothing",
    ):
        assert client.get(path).status_code == 404, path
    assert client.post("/").status_code == client.post("/camera").status_code == 405


def test_without_a_camera_there_is_no_page_of_it():
    with Classifier.load("cifar10", backend="cpu") as loaded, client_of({"cifar10": loaded}) as client:
        answer = client.get("/camera")
        assert answer.status_code == 404
        assert "fracbnn serve --camera 0" in answer.json()["error"]
        assert client.get("/").status_code == 200


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
    (script,) = (target for target in targets if target.endswith(".js"))
    described = script == "page/docs.js"
    assert {"page/page.css", "openapi.json" if described else "docs"} <= set(targets)
    for target in set(targets) - {"v1/stream.mjpg"}:
        assert client.get(urljoin("/", target)).status_code == 200, target
    asked, modules, found = set(), ["/" + script], set()
    while modules:
        path = modules.pop()
        found.add(path)
        answer = client.get(path)
        assert answer.status_code == 200
        modules += {urljoin(path, module) for module in re.findall(r'from "([^"]+)"', answer.text)} - found
        asked |= set(re.findall(r'"((?:page|v1|v2)/[\w/.]+)"', answer.text))
        asked |= set(re.findall(r"`(v[12]/[\w/]+)", answer.text))
    assert asked >= (set() if described else {"v1/camera", "v1/stream"})
    for address in asked - {"v2/models/"}:
        assert client.get("/" + address).status_code in (200, 405, 426), address


def test_every_script_is_used(client):
    used = {"page", "camera", "docs"}
    for name in SCRIPTS:
        used |= set(re.findall(r'from "./(\w+).js"', client.get(f"/page/{name}.js").text))
    assert used == set(SCRIPTS)


@pytest.mark.parametrize("path", TEXTS)
def test_nothing_outside_is_named(client, path):
    text = client.get(path).text
    named = re.findall(r"""\w+://[\w.-]*|["'(=]//[\w.-]*""", text)
    assert named == (["http://localhost"] if path == "/page/webcam.js" else [])
    assert not re.search(r"@import|url\(", text)


def test_the_page_has_no_inline_code_or_style(page):
    for tag, attributes in page.elements:
        assert tag != "style"
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert tag != "script" or attributes.get("src")


def test_the_description_is_a_page_without_inline_code_too(client):
    answer = client.get("/docs")
    assert answer.headers["content-security-policy"] == client.get("/").headers["content-security-policy"]
    test_the_page_has_no_inline_code_or_style(Page(answer.text))


def test_controls_are_labelled_and_ids_are_unique_and_present(client, page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    labelled = set(page.values("for"))
    for tag, attributes in page.elements:
        if tag in ("input", "select"):
            assert attributes["id"] in labelled
    assert labelled | set(page.values("aria-labelledby")) <= set(ids)
    scripts = {
        "page/page.js": ["page", "webcam", "gates", "view", "knows", "snippets", "history"],
        "page/camera.js": ["camera", "view"],
        "page/docs.js": ["docs"],
    }
    used = set()
    for name in next(scripts[source] for source in page.values("src") if source in scripts):
        used |= set(re.findall(r'(?:byId|show|fill|stage)\("([\w-]+)"', client.get(f"/page/{name}.js").text))
    assert len(used) > (2 if "page/docs.js" in page.values("src") else 15)
    assert used <= set(ids)
