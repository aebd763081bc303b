"""A headless Chromium for tests, driven through chromedriver's HTTP alone (W3C WebDriver): no package is needed."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

ARGUMENTS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--disable-background-networking",
    ),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--force-device-scale-factor=1"),
)


class Browser:
    """One window of a headless Chromium.

    Args:
        driver: address of chromedriver.
        chromium: the program.
    """

    def __init__(self, driver: str, chromium: str) -> None:
        self._driver = driver
        options = {"binary": chromium, "args": list(ARGUMENTS)}
        wanted = {
            "goog:chromeOptions": options,
            "timeouts": {"script": 300_000, "pageLoad": 300_000},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._driver + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """Give the page itself this size, on a phone with touch."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self._call("POST", f"{self._session}/goog/cdp/execute", command)

    def open(self, url: str) -> None:
        """Go to a page; what was logged before is forgotten."""
        self.requests()
        self.console()
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns, or what its promise becomes."""
        body = {"script": script, "args": list(arguments)}
        return self._call("POST", f"{self._session}/execute/sync", body)

    def until(self, script: str, seconds: float = 120) -> Any:
        """What a script returns once that is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"{script} is not true after {seconds} s: {self.console()}"
            time.sleep(0.1)
        return found

    def press(self, keys: str) -> None:
        """Type on the page."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]}
        self._call("POST", f"{self._session}/actions", body)

    def drag(self, left: int, top: int, to_left: int, to_top: int, button: int = 0) -> None:
        """Drag the mouse over the page, from one point of it to another."""
        steps: list[dict[str, Any]] = [
            {"type": "pointerMove", "x": left, "y": top, "duration": 0},
            {"type": "pointerDown", "button": button},
            {"type": "pointerMove", "x": (left + to_left) // 2, "y": (top + to_top) // 2, "duration": 50},
            {"type": "pointerMove", "x": to_left, "y": to_top, "duration": 50},
            {"type": "pointerUp", "button": button},
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": steps}
        self._call("POST", f"{self._session}/actions", {"actions": [mouse]})

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self._call("GET", f"{self._session}/screenshot"))

    def console(self) -> list[str]:
        """Warnings and errors of the page since the last call."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> set[str]:
        """Every address that was asked for since the last call, but those of data that a page holds itself."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return {url for url in asked if not url.startswith(("data:", "blob:"))}

    def close(self) -> None:
        """End it."""
        self._call("DELETE", self._session)


def chromium_or_skip() -> Iterator[Browser]:
    """A browser; the test is skipped, with the reason, where Chromium or its driver is missing."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its chromedriver: apt-get install chromium chromium-driver")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = next(found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        browser = Browser(f"http://127.0.0.1:{port}", chromium)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait()
