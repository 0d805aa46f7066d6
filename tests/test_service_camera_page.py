"""The page of the service's own camera, in a real browser."""

# ruff: noqa: E402 - what is imported late needs extras

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("wsproto")
pytest.importorskip("httpx")
pytest.importorskip("selenium", reason="selenium is not installed")
cv2 = pytest.importorskip("cv2")

import numpy as np
from browser_support import Person, start_browser
from fracbnn_pynq.service.settings import Settings
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from service_support import running, wrapped

from fracbnn_pynq import Classifier

TOKEN = "correct/horse+battery"
FPS = 20
SHOWN = """
const image = document.getElementById("picture");
const canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
canvas.getContext("2d").drawImage(image, 0, 0);
return [image.naturalWidth, image.naturalHeight,
  ...canvas.getContext("2d").getImageData(image.naturalWidth / 2, image.naturalHeight / 2, 1, 1).data];
"""


BARS = """
return [...document.querySelectorAll("#bars li")].map((one) => [...one.children].map((part) => part.textContent));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = start_browser(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def classifier():
    with Classifier.load("cifar10", backend="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def video(tmp_path_factory, cat):
    """A cat for two seconds, again and again."""
    path = tmp_path_factory.mktemp("video") / "cat.avi"
    image = cv2.resize(cv2.imread(str(cat)), (320, 240))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (320, 240))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write Motion JPEG")
    for _ in range(2 * FPS):
        writer.write(image)
    writer.release()
    return path


@pytest.fixture(scope="module")
def server(classifier, video):
    with running({"cifar10": classifier}, Settings(camera=str(video), camera_linger=0.2)) as server:
        yield server


@pytest.fixture
def person(browser, server):
    made = Person(browser, f"{server.url}/camera")
    yield made
    browser.get("about:blank")


def live(person):
    person.until(lambda: person.find("#result").is_displayed() and float(person.text("#rate")) > 0, "no frames")


def test_the_camera_is_shown_with_its_labels(person, server, video, cat):
    live(person)
    assert person.until_text("#label") == "cat"
    names, shares, _ = zip(*person.driver.execute_script(BARS), strict=True)
    assert names[0] == "cat"
    assert [float(share.split()[0]) for share in shares] == sorted((float(s.split()[0]) for s in shares), reverse=True)
    assert len(names) == 5
    width, height, *colour = person.driver.execute_script(SHOWN)
    assert (width, height) == (320, 240)
    expected = cv2.resize(cv2.imread(str(cat)), (320, 240))[120, 160, ::-1]
    assert np.abs(np.array(colour[:3]) - expected).max() < 30
    person.until(lambda: FPS / 2 < float(person.text("#rate")) < 1.5 * FPS, "another rate than the video's")
    person.until(lambda: FPS / 2 < float(person.text("#camera-rate")) < 1.5 * FPS, "another rate than the video's")
    assert 0 < float(person.text("#latency").split()[0]) < 1000
    assert list(person.tiles("#timings")) == ["Resizing", "Queue", "Network"]
    assert person.text("#caption") == str(video)
    person.until(lambda: person.find("#status").get_attribute("textContent") == "cat", "nothing was said")
    assert len(server.inference.camera.subscribers) == 1
    assert person.console() == []


def test_it_can_be_paused_with_the_keyboard_and_the_camera_is_closed(person, server):
    live(person)
    focused = []
    for _ in range(3):
        ActionChains(person.driver).send_keys(Keys.TAB).perform()
        focused.append(person.driver.switch_to.active_element)
    assert [element.text for element in focused] == ["Classify a picture", "Interface for programs", "Pause"]
    ActionChains(person.driver).send_keys(Keys.SPACE).perform()
    person.until(lambda: len(server.inference.camera.subscribers) == 0, "it goes on")
    assert person.text("#watch") == "Watch"
    person.until(lambda: server.inference.camera.about["state"] == "closed", "the camera stays open")
    ActionChains(person.driver).send_keys(Keys.SPACE).perform()
    live(person)
    assert person.text("#watch") == "Pause"
    assert not person.find("#error").is_displayed()
    assert person.console() == []


def test_the_pages_name_each_other_where_there_is_a_camera(person, server, classifier):
    live(person)
    person.find("nav a").click()
    person.until(lambda: len(server.inference.camera.subscribers) == 0, "a page that was left goes on")
    person.until(lambda: person.find("#camera-link").is_displayed(), "no link")
    person.find("#camera-link").click()
    live(person)
    person.driver.back()
    person.until(lambda: len(server.inference.camera.subscribers) == 0, "a page that was left goes on")
    person.driver.forward()
    live(person)
    person.until(lambda: len(server.inference.camera.subscribers) == 1, "a page that was taken up again does nothing")
    with running({"cifar10": classifier}) as other:
        without = Person(person.driver, other.url)
        without.until(lambda: without.find("#model").get_attribute("value") == "cifar10", "no model")
        assert not without.find("#camera-link").is_displayed()
        assert without.console() == []


def test_the_token_is_asked_for_and_sent(browser, classifier, video):
    with running({"cifar10": classifier}, Settings(token=TOKEN, camera=str(video))) as server:
        person = Person(browser, f"{server.url}/camera")
        person.until(lambda: person.find("#token-form").is_displayed(), "no token was asked for")
        assert not person.find("#error").is_displayed()
        person.find("#token").send_keys("wrong-horse", Keys.ENTER)
        assert "did not accept" in person.until_text("#error")
        person.find("#token").send_keys(TOKEN, Keys.ENTER)
        live(person)
        assert not person.find("#error").is_displayed()
        person.driver.refresh()
        live(person)
        person.driver.execute_script("sessionStorage.clear()")
        browser.get("about:blank")


def test_a_full_house_is_explained_and_a_free_place_taken(browser, classifier, video):
    with running({"cifar10": classifier}, Settings(viewers=1, camera=str(video))) as server:
        first = Person(browser, f"{server.url}/camera")
        live(first)
        here = browser.current_window_handle
        browser.switch_to.new_window("tab")
        try:
            second = Person(browser, f"{server.url}/camera")
            assert "1 viewers are watching" in second.until_text("#error")
            assert server.inference.camera.about["viewers"] == 1
            there = browser.current_window_handle
            browser.switch_to.window(here)
            first.find("#watch").click()
            browser.switch_to.window(there)
            live(second)
            assert not second.find("#error").is_displayed()
        finally:
            browser.close()
            browser.switch_to.window(here)
            browser.get("about:blank")


def test_a_service_that_ends_and_comes_back_is_explained(browser, classifier, video):
    settings = Settings(camera=str(video))
    with running({"cifar10": classifier}, settings) as server:
        person = Person(browser, f"{server.url}/camera")
        live(person)
        port = server.port
    assert person.until_text("#error")
    person.until(lambda: "cannot be reached" in person.text("#error"), "nothing is said")
    with running({"cifar10": classifier}, settings, port=port):
        person.until(lambda: not person.find("#error").is_displayed(), "it did not come back")
        live(person)
        browser.get("about:blank")


def test_frames_without_labels_are_shown_with_the_reason(browser, classifier, video):
    def before():
        raise RuntimeError("burnt")

    broken, _ = wrapped(classifier, before=before)
    with running({"cifar10": broken}, Settings(camera=str(video))) as server:
        person = Person(browser, f"{server.url}/camera")
        assert "burnt" in person.until_text("#nothing", "burnt")
        assert person.find("#picture").is_displayed()
        browser.get("about:blank")


def test_a_camera_that_is_not_there_is_said(browser, classifier):
    with running({"cifar10": classifier}, Settings(camera="/dev/no-such-camera")) as server:
        person = Person(browser, f"{server.url}/camera")
        assert "no frames come" in person.until_text("#hint", "no frames come")
        assert not person.find("#picture").is_displayed()
        browser.get("about:blank")


@pytest.mark.parametrize("width", [320, 375, 700, 1000])
def test_nothing_is_wider_than_the_window(person, width):
    person.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        live(person)
        person.driver.execute_script("document.getElementById('token-form').hidden = false")
        assert person.driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width] * 2
    finally:
        person.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_and_dark(person, scheme):
    person.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        live(person)
        ground = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        assert (sum(person.driver.execute_script(ground)) > 380) == (scheme == "light")
    finally:
        person.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
