"""A server of files on this machine, that can also do what goes wrong on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files` by path: those in `short` close halfway, those in `rangeless` ignore ranges.

    redirects: from one path to another.

    requests: path and range of each so far.
    """

    files: dict[str, bytes]
    short: set[str]
    rangeless: set[str]
    redirects: dict[str, str]
    requests: list[tuple[str, str | None]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.path not in self.server.files:
            return self.send_error(404)
        content = self.server.files[self.path]
        ranged = asked if self.path not in self.server.rangeless else None
        start = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: len(body) // 2] if self.path in self.server.short else body)
        return None

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def serving(
    files: Mapping[str, bytes], *, short: Set[str] = frozenset(), rangeless: Set[str] = frozenset()
) -> Iterator[Server]:
    """A server of these files that runs until the block is left."""
    with Server(("127.0.0.1", 0), _Handler) as server:
        server.files, server.short, server.rangeless = dict(files), set(short), set(rangeless)
        server.requests, server.redirects = [], {}
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
