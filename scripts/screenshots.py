# SPDX-License-Identifier: Apache-2.0
"""Take the README's pictures of the demo page: serve a model, click through it, photograph it.

Needs Debian's Chromium and the extras `demo` and `dev`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import _cli

APP = _cli.ROOT / "hub_cards" / "space" / "app.py"
IMAGES = _cli.ROOT / "docs" / "images"
MAX_BYTES = 300_000
WAIT_SECONDS = 120
EXAMPLE, WORD = "Good news", "merry"


def main(argv: list[str] | None = None) -> int:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", type=Path, nargs="?", default=Path("demo_output/model"),
        help="folder of the model (default: %(default)s, which make demo trains)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=IMAGES, help="default: %(default)s")
    args = parser.parse_args(argv)
    if not (args.model / "config.json").is_file():
        raise ValueError(f"{args.model}: holds no model; `make demo` trains one")
    chromium = find_chromium()
    if chromium is None:
        raise ValueError("there is no Chromium here (apt-get install chromium)")
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with serve(args.model, log) as address:
            take(address, chromium, args.output)
    return 0


def find_chromium() -> str | None:
    """Return the path of an installed Chromium."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def chromium_arguments() -> list[str]:
    """Return what Chromium needs to be told here."""
    return ["--no-sandbox"] if os.geteuid() == 0 else []


@contextlib.contextmanager
def serve(model: Path, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve the Space's page in a process of its own; yield its address.

    Args:
        model: folder of the model.
        log: where the process's stderr goes.
        environment: variables beside those of this process.

    Raises:
        ValueError: the page does not come up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": port, "HF_HUB_OFFLINE": "1"}
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, str(APP), "--model", str(model.resolve())], cwd=log.parent, text=True,
            env={**os.environ, **alone, **(environment or {})}, stdout=subprocess.PIPE,
            stderr=errors,
        )  # fmt: skip
        try:
            found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
            if found is None:
                raise ValueError(f"the page did not come up: {log.read_text()[-2000:]}")
            yield found.group()
        finally:
            process.terminate()
            process.wait(20)
            process.stdout.close()


def take(address: str, chromium: str, folder: Path) -> None:
    """Photograph the page on a desk in the light and on a phone in the dark."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=chromium_arguments())
        desk = browser.new_page(viewport={"width": 1280, "height": 800})
        phone = browser.new_page(
            viewport={"width": 390, "height": 844}, device_scale_factor=2, color_scheme="dark"
        )
        for page in (desk, phone):
            page.set_default_timeout(WAIT_SECONDS * 1000)
            page.goto(address)
            page.locator("#dialogue details").first.wait_for()
            page.get_by_role("button", name=EXAMPLE).click()
            page.locator(f"[data-word={WORD}]").wait_for()
        desk.locator("#dialogue summary").last.click()
        desk.locator(f"[data-word={WORD}]").click()
        desk.locator("#comparison section").nth(1).wait_for()
        desk.mouse.move(0, 0)
        for page, name, whole in ((desk, "demo-page", True), (phone, "demo-page-phone", False)):
            page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
            if not whole:
                page.evaluate("document.getElementById('left').scrollIntoView()")
            page.wait_for_timeout(800)  # until nothing glides any more
            print(write_picture(page.screenshot(full_page=whole), folder / f"{name}.png"))
        browser.close()


def write_picture(content: bytes, path: Path) -> str:
    """Write a screenshot with 256 colours, and say how large it is.

    Raises:
        ValueError: it is too large for a README.
    """
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(content)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(buffer, "PNG", optimize=True)
    if buffer.tell() > MAX_BYTES:
        raise ValueError(f"{path}: would be {buffer.tell()} bytes, more than {MAX_BYTES}")
    path.write_bytes(buffer.getvalue())
    return f"{path}: {image.width} x {image.height}, {buffer.tell() // 1024} KiB"


if __name__ == "__main__":
    _cli.run_main(main)
