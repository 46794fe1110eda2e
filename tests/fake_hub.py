"""A Hugging Face Hub on this machine, which can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 1 << 16


@dataclass
class FakeHub:
    """One repository.

    Attributes:
        repository: its id.
        files: contents by name.
        requests: method, path and Range header of every request, in order.
        sizes: sizes that are claimed in place of the true ones, by name.
        altered: whether contents arrive with a changed byte.
        cut_after: the number of bytes of a file after which the connection is closed.
        hold_after: the number of bytes after which nothing more comes until the hub closes.
        holding: is set while it holds.
        answer: the status and X-Error-Code of every request from now on, by the path's beginning.
    """

    repository: str
    files: dict[str, bytes]
    port: int = 0
    commit: str = COMMIT
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    altered: bool = False
    cut_after: int | None = None
    hold_after: int | None = None
    ignores_ranges: bool = False
    holding: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    answer: dict[str, tuple[int, str]] = field(default_factory=dict)
    tokens: dict[str, str | None] = field(default_factory=dict)  # the last one, by kind of path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range headers with which contents were asked for."""
        return [wanted for method, path, wanted in self.requests
                if method == "GET" and path.startswith("/cdn/")]  # fmt: skip

    def digest(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def info(self) -> dict[str, object]:
        siblings = []
        for name, data in self.files.items():
            size = self.sizes.get(name, len(data))
            entry: dict[str, object] = {"rfilename": name, "size": size, "blobId": "0" * 40}
            if name.endswith(".gguf"):
                entry["lfs"] = {"sha256": self.digest(name), "size": size, "pointerSize": 134}
            siblings.append(entry)
        return {"id": self.repository, "sha": self.commit, "siblings": siblings}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def _respond(self) -> None:
        hub, path = self.hub, unquote(self.path.partition("?")[0])
        if path == "/api/agent-harnesses":  # huggingface_hub's own, about its environment
            self._send(404, {}, "")
            return
        hub.requests.append((self.command, path, self.headers.get("Range")))
        hub.tokens[path.split("/")[1]] = self.headers.get("Authorization")
        if path.startswith("/cdn/") and not any(map(path.startswith, hub.answer)):
            self._contents(path.removeprefix("/cdn/"))
        else:
            self._send(*self._page(path))

    def _page(self, path: str) -> tuple[int, dict[str, str], str]:
        hub = self.hub
        for beginning, (status, code) in hub.answer.items():
            if path.startswith(beginning):
                return status, {"X-Error-Code": code} if code else {}, ""
        api = re.fullmatch(r"/api/models/(.+?)/revision/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        missing = None
        if found is None or found[1] != hub.repository:
            missing = "RepoNotFound"
        elif found[2] not in ("main", hub.commit):
            missing = "RevisionNotFound"
        elif file is not None and file[3] not in hub.files:
            missing = "EntryNotFound"
        if missing:
            return 404, {"X-Error-Code": missing}, ""
        if file is None:
            return 200, {"Content-Type": "application/json"}, json.dumps(hub.info())
        headers = {
            "Location": f"http://localhost:{hub.port}/cdn/{file[3]}",
            "X-Repo-Commit": hub.commit,
            "X-Linked-Etag": f'"{hub.digest(file[3])}"',
            "X-Linked-Size": str(len(hub.files[file[3]])),
        }
        return 302, headers, ""

    def _send(self, status: int, headers: dict[str, str], body: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def _contents(self, name: str) -> None:
        hub, data = self.hub, self.hub.files[name]
        if hub.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and not hub.ignores_ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        for position in range(start, len(data), PIECE):
            if hub.cut_after is not None and position >= hub.cut_after:
                self.close_connection = True
                return
            if hub.hold_after is not None and position >= hub.hold_after:
                self.wfile.flush()
                hub.holding.set()
                hub.closing.wait(30)
                self.close_connection = True
                return
            self.wfile.write(data[position : position + PIECE])


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
