"""The web page in a real browser, as a person uses it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("selenium", reason="selenium is not installed")

import httpx
from browser_support import ALLOW_CAMERA, PATIENCE_S, Person, start_browser
from fracbnn_pynq.service.settings import Settings
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from service_support import Engine, random_images, running, wrapped

from fracbnn_pynq import Classifier
from fracbnn_pynq.model import random_model
from fracbnn_pynq.modelfile import save_model
from fracbnn_pynq.networks import CIFAR10
from fracbnn_pynq.thermometer import levels

TOKEN = "correct-horse"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = start_browser(tmp_path_factory.mktemp("chromium"), ALLOW_CAMERA)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def server(classifier):
    with running({"cifar10": classifier, "again": classifier}, Settings(max_body=1 << 20)) as server:
        yield server


@pytest.fixture
def person(browser, server):
    return Person(browser, server.url)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_chosen_picture_is_shown_with_its_classes(person, classifier, cat):
    person.choose(cat)
    assert person.until_text("#label") == "cat"
    top = classifier.classify(cat).top
    assert person.shares() == [(label, f"{100 * share:.1f} %") for label, share in top]
    assert person.find("#picture").size["width"] > 100
    assert person.driver.execute_script("return document.getElementById('picture').naturalWidth") == 451
    assert person.text("#caption") == "cat.jpg"
    about = person.tiles("#about")
    assert (about["Model"], about["Backend"], about["Arithmetic"]) == ("cifar10", "cpu", "faithful")
    times = person.tiles("#timings")
    assert list(times) == ["Decoding", "Queue", "Network", "Whole service", "Round trip"]
    assert 0 < float(times["Network"].split()[0]) < float(times["Round trip"].split()[0])
    assert person.find("#status").get_attribute("textContent") == f"cat, {100 * top[0][1]:.1f} %"
    assert not person.find("#error").is_displayed()
    assert person.console() == []


def test_the_sample_works_with_the_keyboard_alone(person):
    focused = []
    for _ in range(4):
        ActionChains(person.driver).send_keys(Keys.TAB).perform()
        focused.append(person.driver.switch_to.active_element)
    assert [element.get_attribute("id") for element in focused[1:]] == ["file", "sample", "webcam"]
    sample = focused[2]
    outline = "return getComputedStyle(arguments[0]).outlineStyle"
    assert person.driver.execute_script(outline, sample) == "none"
    ActionChains(person.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert person.driver.execute_script(outline, sample) == "solid"
    ActionChains(person.driver).send_keys(Keys.ENTER).perform()
    assert person.until_text("#label") == "cat"
    assert "Chelsea" in person.text("#caption")
    assert person.console() == []


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_can_be_dropped_and_pasted(person, cat, event):
    prevented = person.dispatch(event, cat.read_bytes(), "photo.jpg", "image/jpeg")
    assert prevented == (event == "drop")  # else the browser would leave the page for the file
    assert person.until_text("#label") == "cat"
    assert person.text("#caption") == "photo.jpg"


def test_something_else_that_is_dropped_is_explained(person):
    person.dispatch("drop")
    assert "not a file" in person.until_text("#error")


def test_a_file_that_is_no_picture_is_explained_and_the_next_picture_works(person, cat, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no picture at all")
    person.choose(text)
    assert "not a picture" in person.until_text("#error")
    assert person.find("#error").get_attribute("role") == "alert"
    assert not person.find("#result").is_displayed()
    assert person.text("#caption") == "notes.txt: this browser cannot show it"
    person.choose(cat)
    assert person.until_text("#label") == "cat"
    assert not person.find("#error").is_displayed()


def test_a_picture_that_only_the_service_can_read_is_classified(person, cat, tmp_path):
    path = tmp_path / "cat.tiff"
    with Image.open(cat) as image:
        image.resize((90, 60)).save(path)
    person.choose(path)
    person.until_text("#label")
    assert "cannot show" in person.text("#caption")
    assert not person.find("#error").is_displayed()


def test_a_file_that_is_too_large_is_explained(person, tmp_path):
    path = tmp_path / "large.jpg"
    path.write_bytes(bytes((1 << 20) + 1))
    person.choose(path)
    assert "large" in person.until_text("#error")


def test_another_model_can_be_chosen(person, cat):
    person.choose(cat)
    person.until_text("#label")
    Select(person.find("#model")).select_by_visible_text("again")
    person.until(lambda: person.tiles("#about")["Model"] == "again", "the other model never answered")


def test_the_webcam_is_followed_until_it_is_stopped(person):
    person.find("#webcam").click()
    person.until(lambda: person.find("#rates").is_displayed() and float(person.text("#rate")) > 0, "no frames")
    assert person.find("#video").is_displayed()
    assert person.until_text("#label")
    assert float(person.text("#latency").split()[0]) > 0
    assert person.find("#webcam").get_attribute("aria-pressed") == "true"
    person.find("#webcam").click()
    assert person.text("#webcam") == "Start webcam"
    assert not person.find("#video").is_displayed()
    assert person.driver.execute_script("return document.getElementById('video').srcObject") is None
    assert person.console() == []


def test_a_label_that_stays_is_said(person, classifier):
    class Sure(Engine):
        def logits(self, images):
            return np.tile(np.arange(10, dtype=np.float32), (len(images), 1))

    sure, _ = wrapped(classifier, Sure)
    with running({"cifar10": sure}) as server:
        other = Person(person.driver, server.url)
        other.find("#webcam").click()
        other.until(lambda: other.find("#status").get_attribute("textContent") == "truck", "nothing was said")
        other.find("#webcam").click()


def test_frames_are_sent_one_at_a_time(person, classifier):
    held = []

    def before():
        time.sleep(0.1)
        held.append(server.inference.workers["cifar10"].admitted)

    slow, _ = wrapped(classifier, before=before)
    with running({"cifar10": slow}) as server:
        other = Person(person.driver, server.url)
        other.find("#webcam").click()
        other.until(lambda: len(held) > 5, "too few frames")
        other.find("#webcam").click()
    assert set(held) == {1}


def test_a_picture_ends_the_webcam(person, cat):
    person.find("#webcam").click()
    person.until(lambda: person.find("#rates").is_displayed(), "no webcam")
    person.choose(cat)
    person.until(lambda: person.text("#caption") == "cat.jpg" and person.text("#label") == "cat", "no cat")
    assert not person.find("#rates").is_displayed()
    assert not person.find("#video").is_displayed()


def test_a_refused_camera_is_explained(server, tmp_path):
    driver = start_browser(tmp_path / "profile", "--deny-permission-prompts")
    try:
        person = Person(driver, server.url)
        person.find("#webcam").click()
        assert "not allowed to use the camera" in person.until_text("#error")
        assert person.text("#webcam") == "Start webcam"
        assert person.find("#webcam").is_enabled()
    finally:
        driver.quit()


def test_the_token_is_asked_for_and_sent(browser, classifier, cat):
    with running({"cifar10": classifier}, Settings(token=TOKEN)) as server:
        person = Person(browser, server.url)
        person.until(lambda: person.find("#token-form").is_displayed(), "no token was asked for")
        assert not person.find("#error").is_displayed()
        person.choose(cat)
        person.find("#token").send_keys("wrong-horse", Keys.ENTER)
        assert "did not accept" in person.until_text("#error")
        person.find("#token").send_keys(TOKEN, Keys.ENTER)
        assert person.until_text("#label") == "cat"
        assert not person.find("#token-form").is_displayed()
        assert not person.find("#error").is_displayed()
        person.driver.refresh()
        person.find("#sample").click()
        assert person.until_text("#label") == "cat"


def test_a_service_that_has_gone_is_explained(browser, classifier, cat):
    with running({"cifar10": classifier}) as server:
        person = Person(browser, server.url)
        person.until(lambda: person.find("#model").get_attribute("value") == "cifar10", "no model")
    person.choose(cat)
    assert "cannot be reached" in person.until_text("#error")


def test_a_fault_of_the_engine_is_explained(browser, classifier, cat):
    def before():
        raise RuntimeError("burnt")

    broken, _ = wrapped(classifier, before=before)
    with running({"cifar10": broken}) as server:
        person = Person(browser, server.url)
        person.choose(cat)
        assert "busy or recovering" in person.until_text("#error")


def test_the_planes_are_those_the_network_reads(person, tmp_path):
    (image,) = random_images(1, seed=5)
    image[0, :, 0] = np.arange(32)  # with every tie between two levels of the lower half
    path = tmp_path / "noise.png"
    path.write_bytes(png(image))
    person.choose(path)
    person.until_text("#label")
    person.find("#hood summary").click()
    person.until(lambda: person.find("#planes").is_displayed() and len(person.pixels("#blue")) == 131, "no planes")
    assert np.array_equal(person.pixels("#input")[..., :3], image)
    for colour, name in enumerate(("red", "green", "blue")):
        canvas = person.pixels(f"#{name}")
        assert canvas.shape == (131, 263, 4)
        for plane in range(32):
            row, column = divmod(plane, 8)
            tile = canvas[33 * row : 33 * row + 32, 33 * column : 33 * column + 32, colour]
            assert np.array_equal(tile > 128, plane < levels(image[..., colour])), (name, plane)


def test_the_gates_are_those_of_the_reference_engine(person, classifier, cat):
    from fracbnn_pynq.backends.reference import ReferenceBackend
    from fracbnn_pynq.pictures import load

    person.find("#hood summary").click()
    person.choose(cat)
    person.until(lambda: len(person.shares("#gates-bars")) == 18, "no gates")
    engine = ReferenceBackend(classifier.model, classifier.arithmetic)
    _, layers = engine.logits(load(cat, classifier.network)[None], layers=True)
    assert person.shares("#gates-bars") == [(at.name, f"{100 * at.gate_fraction:.1f} %") for at in layers[1:]]
    # Another test's page may have left the service tracing: the first request is then refused and made again.
    assert [message for message in person.console() if "503" not in message] == []
    person.find("#webcam").click()
    person.until(lambda: person.find("#rates").is_displayed(), "no webcam")
    assert not person.find("#gates").is_displayed()
    person.find("#webcam").click()


def test_a_layer_is_drawn(person, cat):
    person.choose(cat)
    person.until_text("#label")
    person.find("#hood summary").click()
    person.until(lambda: person.find("#layer-row").is_displayed(), "no layers")
    choice = Select(person.find("#layer"))
    assert [option.text for option in choice.options][:2] == ["none", "layer1.0.conv1"]
    assert not person.find("#layer-figure").is_displayed()
    choice.select_by_visible_text("layer2.0.conv1")
    person.until(lambda: person.find("#layer-figure").is_displayed(), "no picture")
    picture = "document.getElementById('layer-picture')"
    person.until(lambda: person.driver.execute_script(f"return {picture}.complete"), "not loaded")
    # 32 channels of 16 x 16 pixels: four rows of eight, twice.
    size = person.driver.execute_script(f"return [{picture}.naturalWidth, {picture}.naturalHeight]")
    assert size == [2 * (8 * 17 - 1) + 4, 4 * 17 - 1]
    assert "layer2.0.conv1" in person.find("#layer-picture").get_attribute("alt")
    choice.select_by_visible_text("none")
    assert not person.find("#layer-figure").is_displayed()
    assert [message for message in person.console() if "503" not in message] == []


def test_gates_of_a_picture_that_was_refused_are_not_another_ones(person, cat, tmp_path):
    def bars():
        return person.driver.find_elements(By.CSS_SELECTOR, "#gates-bars li")

    person.find("#hood summary").click()
    person.choose(cat)
    person.until(lambda: len(bars()) == 18, "no gates")
    text = tmp_path / "notes.txt"
    text.write_text("no picture at all")
    person.choose(text)
    person.until_text("#error")
    assert not person.find("#gates").is_displayed()
    person.choose(cat)
    person.until(lambda: person.find("#gates").is_displayed() and len(bars()) == 18, "no gates")


def test_gates_are_asked_for_again_while_another_picture_is_traced(person, classifier, cat, monkeypatch):
    from fracbnn_pynq.service import trace

    compute = trace._gate_fractions
    begun, go_on = threading.Event(), threading.Event()
    traced = []

    def slow(*arguments):
        begun.set()
        go_on.wait(PATIENCE_S)
        (upload,) = arguments[1].uploads(1, 1 << 24, lambda: None)
        traced.append(upload.data)
        return compute(*arguments)

    monkeypatch.setattr(trace, "_gate_fractions", slow)
    person.choose(cat.with_name("rocket.jpg"))
    person.until_text("#label")
    person.find("#hood summary").click()
    assert begun.wait(PATIENCE_S)
    person.choose(cat)
    person.until_text("#label", "cat")
    go_on.set()
    person.until(lambda: len(person.shares("#gates-bars")) == 18, "no gates")
    assert traced == [cat.with_name("rocket.jpg").read_bytes(), cat.read_bytes()]


def test_a_picture_is_shrunk_as_the_service_does_it(person, classifier, tmp_path):
    from fracbnn_pynq.pictures import prepare

    large = np.random.default_rng(6).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    path = tmp_path / "large.png"
    path.write_bytes(png(large))
    person.choose(path)
    person.until_text("#label")
    person.find("#hood summary").click()
    person.until(lambda: len(person.pixels("#input")) == 32, "no planes")
    assert np.array_equal(person.pixels("#input")[..., :3], prepare(large, classifier.network))


@pytest.mark.parametrize("width", [320, 375, 700, 1000])
def test_nothing_is_wider_than_the_window(person, cat, width):
    person.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        person.choose(cat)
        person.until_text("#label")
        person.find("#hood summary").click()
        person.driver.execute_script("document.getElementById('token-form').hidden = false")
        wide = person.driver.execute_script(
            "return [...document.body.querySelectorAll('*')].filter((one) => !one.closest('.unseen') &&"
            " (one.getBoundingClientRect().right > innerWidth || one.getBoundingClientRect().left < 0))"
            ".map((one) => one.outerHTML)"
        )
        assert wide == []
        assert person.driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width] * 2
    finally:
        person.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_interface_is_described_without_internet(browser, server):
    person = Person(browser, f"{server.url}/docs")
    person.until(lambda: person.driver.find_elements(By.CSS_SELECTOR, ".operation"), "no operation is shown")
    operations = person.driver.find_elements(By.CSS_SELECTOR, ".operation")
    description = httpx.get(f"{server.url}/openapi.json").json()
    assert len(operations) == sum(len(methods) for methods in description["paths"].values())
    assert description["info"]["version"] in person.text("#about")
    named = person.find("#classify_v1_classify_post")
    assert not named.find_element(By.CSS_SELECTOR, "pre").is_displayed()
    named.find_element(By.CSS_SELECTOR, "summary").send_keys(Keys.ENTER)
    text = person.text("#classify_v1_classify_post")
    assert "POST /v1/classify Classify one picture" in text
    assert f"'{server.url}/v1/classify'" in text
    assert "The bearer token is missing or wrong" in text
    assert "label: string" in text
    person = Person(browser, f"{server.url}/docs#live_health_live_get")
    person.until(lambda: person.driver.find_elements(By.CSS_SELECTOR, "#live_health_live_get[open]"), "not opened")
    assert person.console() == []


def test_it_says_what_a_model_recognises_and_its_card(person, classifier):
    assert person.until_text("#knows-title") == "What it recognises: 10 things, and nothing else"
    person.find("#knows summary").click()
    names = [item.text for item in person.driver.find_elements(By.CSS_SELECTOR, "#names li")]
    assert names == list(classifier.labels)
    assert not person.find("#find-row").is_displayed()  # ten names need no search
    assert person.tiles("#card")["trained on"] == classifier.model.provenance["trained_on"]
    assert person.console() == []


def test_a_thousand_names_can_be_searched(browser, tmp_path):
    model = random_model(CIFAR10.with_classes(1000), seed=3)
    model = replace(model, classes=tuple(f"thing {number}, of sort {number % 7}" for number in range(1000)))
    save_model(model, tmp_path / "many.safetensors")
    with Classifier.load(tmp_path / "many.safetensors", backend="cpu") as many, running({"many": many}) as server:
        person = Person(browser, server.url)
        assert "1,000 things" in person.until_text("#knows-title")
        person.find("#knows summary").click()
        person.find("#find").send_keys("SORT 3 thing 99")
        person.until_text("#found")
        shown = [item.text for item in person.driver.find_elements(By.CSS_SELECTOR, "#names li") if item.is_displayed()]
        expected = [name for name in model.classes if all(word in name for word in ("sort", "3", "thing", "99"))]
        assert shown == expected != []
        assert person.text("#found") == f"{len(expected)} of them"


def test_the_number_of_labels_and_lines_for_programs(person, server, cat):
    person.choose(cat)
    person.until_text("#label", "cat")
    assert len(person.shares()) == 5
    Select(person.find("#top")).select_by_visible_text("1")
    person.until(lambda: len(person.driver.find_elements(By.CSS_SELECTOR, "#bars li")) == 1, "still five labels")
    person.find("#snippets summary").click()
    assert person.text("#curl") == f"curl --data-binary @cat.jpg '{server.url}/v1/classify?top=1&model=cifar10'"
    said = subprocess.run(
        person.text("#curl").replace("@cat.jpg", f"@{cat}"), shell=True, capture_output=True, check=True
    )
    assert json.loads(said.stdout)["label"] == "cat"
    code = person.text("#python").replace('"cat.jpg"', repr(str(cat)))
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert said.stdout == "cat\n"
    person.find("[data-copies=curl]").click()
    person.until_text("#copied")


def test_a_picture_that_is_too_large_is_made_smaller_and_says_so(browser, classifier, tmp_path):
    path = tmp_path / "large.png"
    ramp = np.linspace(0, 255, 400, dtype=np.uint8)
    path.write_bytes(png(np.stack([np.tile(ramp, (300, 1))] * 3, axis=-1)))
    with running({"cifar10": classifier}, Settings(max_pixels=30_000)) as server:
        person = Person(browser, server.url)
        person.choose(path)
        person.until_text("#label")
        assert person.text("#caption").startswith("large.png: sent as 200 x 150 pixels instead of 400 x 300, as this")
        assert "0.03 megapixels" in person.text("#caption")
        assert not person.find("#error").is_displayed()


def test_nothing_stays_of_a_webcam_that_was_stopped(person):
    person.find("#webcam").click()
    person.until_text("#label")
    person.find("#webcam").click()
    person.until(lambda: not person.find("#result").is_displayed(), "its last label stays")
    assert person.text("#nothing") == "Nothing yet."
    assert person.find("#status").get_attribute("textContent") == ""


SAVED = """
const done = arguments[arguments.length - 1];
const click = HTMLAnchorElement.prototype.click;
const make = URL.createObjectURL;
let content = null;
URL.createObjectURL = (blob) => { content = blob; return make(blob); };
HTMLAnchorElement.prototype.click = function () {
  HTMLAnchorElement.prototype.click = click;
  URL.createObjectURL = make;
  content.text().then((text) => done([this.download, text]));
};
document.getElementById(arguments[0]).click();
"""
"""What a button would save: the name of the file and its text."""


def test_several_pictures_have_a_row_each_and_can_be_saved(browser, server, cat, tmp_path):
    person = Person(browser, server.url)
    strange = tmp_path / '=1+1,"a".png'
    strange.write_bytes(cat.read_bytes())
    text = tmp_path / "notes.txt"
    text.write_text("no picture at all")
    chosen = [cat, text, strange, cat.with_name("rocket.jpg")]
    person.find("#file").send_keys("\n".join(map(str, chosen)))
    person.until_text("#history-title", "4 pictures so far")
    person.find("#history summary").click()
    rows = [row.text.split("\n") for row in person.driver.find_elements(By.CSS_SELECTOR, "#rows tr")]
    assert [row[0].split(" ")[0] for row in rows] == ["rocket.jpg", strange.name, "notes.txt", "cat.jpg"]
    name, saved = browser.execute_async_script(SAVED, "json")
    assert name == "fracbnn.json"
    entries = json.loads(saved)
    assert [entry["label"] for entry in entries][:3] == ["cat", "", "cat"]
    assert "not a picture" in entries[1]["error"]
    assert [len(entry["top"]) for entry in entries] == [5, 0, 5, 5]
    name, saved = browser.execute_async_script(SAVED, "csv")
    assert name == "fracbnn.csv"
    read = list(csv.DictReader(io.StringIO(saved, newline="")))
    assert [row["name"] for row in read] == ["cat.jpg", "notes.txt", f"'{strange.name}", "rocket.jpg"]
    assert float(read[0]["score"]) == entries[0]["score"]
    person.find("#forget").click()
    assert not person.find("#history").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_axe_finds_nothing(browser, server, path, scheme):
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        person = Person(browser, f"{server.url}{path}")
        if path == "/":
            person.find("#sample").click()
            person.until_text("#label", "cat")
        else:
            person.until(lambda: person.driver.find_elements(By.CSS_SELECTOR, ".operation"), "no operation")
        browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
        browser.execute_script(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
        found = browser.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run().then((results) => done(results.violations));"
        )
        assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found] == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
