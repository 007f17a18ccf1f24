# SPDX-License-Identifier: Apache-2.0
"""Keep out what the page never asks for: Gradio can do more than is wanted here."""

from __future__ import annotations

import uploads
from starlette.responses import PlainTextResponse

# A message holds the pictures in base64, which is longer by a third, and little else.
MAX_REQUEST = uploads.MAX_TOTAL_BYTES * 4 // 3 + 2**20
# Gradio's ways to and from the disk, none of which the page needs.
CLOSED = tuple(
    f"/gradio_api/{way}" for way in ("upload", "file", "proxy", "stream", "process_recording")
)


class Doors:
    """Refuse requests that the page never makes: for files, to write files, or huge ones."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        """Answer 403, 411 or 413 where a request is refused; else hand it on."""
        refused = self._refuse(scope) if scope["type"] == "http" else None
        await (refused or self.app)(scope, receive, send)

    @staticmethod
    def _refuse(scope) -> PlainTextResponse | None:
        if scope["path"].startswith(CLOSED):
            return PlainTextResponse("This page serves no files.", 403)
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if b"transfer-encoding" in headers:
            return PlainTextResponse("Say how long the request is.", 411)
        if length and (not length.isdigit() or int(length) > MAX_REQUEST):
            return PlainTextResponse("This is too large.", 413)
        return None
