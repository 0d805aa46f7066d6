"""Pictures of the web page for the documentation: by itself, and beside a Gradio demo of the same model.

    python tools/page_pictures.py        # needs the extra service, selenium, gradio, chromium and chromedriver

Writes ``docs/page.png`` and ``docs/page-beside-gradio.png``: left this project's page, right Gradio's, light above
dark. Both are given the same photograph, and both ask the same classifier.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

HERE = Path(__file__).resolve().parents[1]
CAT = HERE / "notebooks" / "pictures" / "cat.jpg"
SIZE = (1000, 900)
PATIENCE_S = 60
GRADIO = """
import sys
import gradio
from fracbnn_pynq import Classifier
classifier = Classifier.load("cifar10", backend="cpu")
def classify(picture):
    return dict(classifier.classify(picture).top)
demo = gradio.Interface(classify, gradio.Image(type="pil"), gradio.Label(num_top_classes=5), title="FracBNN")
demo.launch(server_name="127.0.0.1", server_port=int(sys.argv[1]))
"""


class Page(NamedTuple):
    """Where a page is, and XPaths: its field for a file, what to press then, and what shows that it is done."""

    url: str
    field: str
    button: str | None
    done: str


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def served(*command: str, port: int) -> Iterator[str]:
    """The address of what ``command`` serves, once it answers."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}/"
        try:
            end = time.monotonic() + PATIENCE_S
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(url, timeout=2).close()
                    break
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"nothing was served at {url}")
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()


@contextlib.contextmanager
def browser(*, dark: bool) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as folder:
        flags = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={folder}")
        for flag in (*flags, f"window-size={SIZE[0]},{SIZE[1]}"):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            yield driver
        finally:
            driver.quit()


def picture_of(page: Page, *, dark: bool) -> Image.Image:
    """What the page looks like once it has classified the cat."""
    with browser(dark=dark) as driver:

        def found(path: str) -> Any:
            return WebDriverWait(driver, PATIENCE_S).until(lambda d: d.find_elements(By.XPATH, path))[0]

        driver.get(page.url)
        found(page.field).send_keys(str(CAT))
        if page.button is not None:
            found("//img[contains(@src, 'cat')]")
            found(page.button).click()
        found(page.done)
        time.sleep(1)  # both move their bars
        return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


def main() -> None:
    ours, theirs = free_port(), free_port()
    with (
        served("-m", "fracbnn_pynq", "serve", "--port", str(ours), port=ours) as own,
        served("-c", GRADIO, str(theirs), port=theirs) as demo,
    ):
        pages = (
            Page(own, "//input[@id='file']", None, "//*[@id='label' and text()='cat']"),
            Page(
                demo,
                "//input[@type='file']",
                "//button[normalize-space()='Submit']",
                "//*[contains(@class, 'output-class')]",
            ),
        )
        for page in pages:
            picture_of(page, dark=False)  # the first picture takes longer
        rows = [[picture_of(page, dark=dark) for page in pages] for dark in (False, True)]
    rows[0][0].quantize(256).save(HERE / "docs" / "page.png", optimize=True)
    width, height = rows[0][0].size
    beside = Image.new("RGB", (2 * width + 20, 2 * height + 20), "grey")
    for y, row in enumerate(rows):
        for x, each in enumerate(row):
            beside.paste(each, (x * (width + 20), y * (height + 20)))
    small = beside.resize((beside.width * 2 // 3, beside.height * 2 // 3), Image.Resampling.LANCZOS)
    small.quantize(128).save(HERE / "docs" / "page-beside-gradio.png", optimize=True)


if __name__ == "__main__":
    main()
