"""A headless Chromium for tests, over its debugging pipe: no driver, no port, no package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

ON_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find() -> str | None:
    """The browser to use: LAYERFIT_BROWSER, else what is on the PATH; None without one."""
    return os.environ.get("LAYERFIT_BROWSER") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page. `problems` are console errors, exceptions and requests for anything but the page itself."""

    def __init__(self, executable: str, profile: Path) -> None:
        down_read, down_write = os.pipe()  # Chromium reads commands from file 3 and answers on file 4
        up_read, up_write = os.pipe()
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        command = [executable, *words, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        started = [sys.executable, "-c", ON_3_AND_4, str(down_read), str(up_write), *command]
        self._process = subprocess.Popen(started, pass_fds=(down_read, up_write), stderr=subprocess.DEVNULL)
        os.close(down_read)
        os.close(up_write)
        self._write, self._read = os.fdopen(down_write, "wb", buffering=0), os.fdopen(up_read, "rb")
        self._count, self._session, self._buffer = 0, None, b""
        self.problems: list[str] = []
        self._loaded = False
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        self._write.close()
        self._read.close()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = self._read.read1(1 << 20)
            if not chunk:
                raise EOFError("the browser has ended")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, event: dict[str, Any]) -> None:
        method, given = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(given["exceptionDetails"].get("exception", given["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console.{given['type']}: {given['args']}")
        elif method == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.problems.append(given["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not given["request"]["url"].startswith(("file:", "data:")):
            self.problems.append(f"asked for {given['request']['url']}")
        self._loaded = self._loaded or method == "Page.loadEventFired"

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol; return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def open(self, address: str) -> None:
        """Go to an address and wait until it has loaded."""
        self._loaded = False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._note(self._message())

    def run(self, code: str) -> Any:
        """Run JavaScript in the page and return its value; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def go(self, hash_: str) -> None:
        """Follow a link inside the page and wait until it was drawn."""
        self.run(f"location.hash = {json.dumps(hash_)}; new Promise(done => setTimeout(done, 60))")

    def look(self, *, width: int, height: int, dark: bool = False, media: str = "") -> None:
        """Set the window's size, the colour scheme and the medium."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def pdf(self, path: Path) -> None:
        """Write what the printer would get."""
        path.write_bytes(b64decode(self.call("Page.printToPDF")["data"]))
