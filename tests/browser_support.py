"""Chromium, driven as a person uses a page; tests that import this are skipped where it is not installed."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)", allow_module_level=True)

PATIENCE_S = 20
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,900",
    "--use-fake-device-for-media-stream",
]
ALLOW_CAMERA = "--use-fake-ui-for-media-stream"

DISPATCH = """
const [base64, name, type, event, property] = arguments;
const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
const carried = new DataTransfer();
if (name) carried.items.add(new File([bytes], name, { type }));
const made = event === "drop" ? new DragEvent(event, { dataTransfer: carried, bubbles: true, cancelable: true })
  : new ClipboardEvent(event, { clipboardData: carried, bubbles: true, cancelable: true });
document.body.dispatchEvent(made);
return made.defaultPrevented;
"""


def start_browser(folder: Path, *flags: str) -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))


class Person:
    """What a person sees and does."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        driver.get_log("browser")
        driver.get(url)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.find(selector).text)

    def until(self, condition: Callable[[], object], what: str) -> None:
        WebDriverWait(self.driver, PATIENCE_S, 0.05).until(lambda _: condition(), what)

    def until_text(self, selector: str, expected: str = "") -> str:
        self.until(lambda: expected in self.text(selector) != "", f"{selector}: never read {expected!r}")
        return self.text(selector)

    def choose(self, path: Path) -> None:
        self.find("#file").send_keys(str(path))

    def dispatch(self, event: str, data: bytes = b"", name: str = "", kind: str = "") -> Any:
        return self.driver.execute_script(DISPATCH, base64.b64encode(data).decode(), name, kind, event)

    def shares(self, bars: str = "#bars") -> list[tuple[str, str]]:
        """Names and shares of bars, all of one moment."""
        script = (
            "return [...document.querySelectorAll(arguments[0] + ' li')].map("
            "(bar) => ['.name', '.share'].map((part) => bar.querySelector(part).textContent))"
        )
        return [tuple(pair) for pair in self.driver.execute_script(script, bars)]

    def tiles(self, selector: str) -> dict[str, str]:
        lines = self.text(selector).splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True))

    def console(self) -> list[str]:
        log = self.driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] in ("WARNING", "SEVERE")]

    def pixels(self, selector: str) -> npt.NDArray[np.uint8]:
        url = self.driver.execute_script("return document.querySelector(arguments[0]).toDataURL()", selector)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))
