"""A hub on this machine: an HTTP server that answers as the hub does, with repositories and faults of one's own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class Repo:
    """What a repository holds, and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200  # of every answer about it
    error: str = ""  # X-Error-Code beside it
    message: str = ""  # X-Error-Message
    missing: set[str] = field(default_factory=set)  # files that are listed and cannot be had
    cut: dict[str, list[int]] = field(default_factory=dict)  # file -> bytes after which its next downloads break off
    sizes: dict[str, int] = field(default_factory=dict)  # other sizes than the files have
    xet: set[str] = field(default_factory=set)  # files that are said to come by Xet
    token: str = ""  # needed to read it


class MockHub:
    """repos: name -> Repo. asked: (method, path, headers) of every request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def downloaded(self) -> list[str]:
        """The files whose contents were asked for."""
        got = [path for method, path, _ in self.asked if method == "GET"]
        return [re.sub(r"^.*/resolve/[^/]+/", "", path) for path in got if "/resolve/" in path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append((request.command, path, {key.lower(): value for key, value in request.headers.items()}))
        api = path.startswith("/api/models/")
        owner, name, *rest = path.removeprefix("/api/models/").strip("/").split("/")
        repo = self.repos.get(f"{owner}/{name}")
        if repo is None:
            return self.send(request, 404, error="RepoNotFound", message="Repository not found")
        if repo.token and request.headers.get("Authorization") != f"Bearer {repo.token}":
            message = "Invalid credentials in Authorization header" if "Authorization" in request.headers else ""
            return self.send(request, 401, error="" if message else "GatedRepo", message=message)
        if repo.status != 200:
            return self.send(request, repo.status, error=repo.error, message=repo.message)
        if api:
            return self.send(request, 200, json.dumps(self.listing(repo, f"{owner}/{name}", rest)).encode())
        file = "/".join(rest[2:])  # resolve/<commit>/<file>
        if file not in repo.files or file in repo.missing:
            return self.send(request, 404, error="EntryNotFound", message="Entry not found")
        cut = repo.cut[file].pop(0) if request.command == "GET" and repo.cut.get(file) else None
        self.send(request, 200, repo.files[file], cut=cut, xet=file in repo.xet)

    def listing(self, repo: Repo, name: str, rest: list[str]) -> object:
        sizes = {file: repo.sizes.get(file, len(content)) for file, content in repo.files.items()}
        if rest[:1] == ["tree"]:
            return [{"type": "file", "path": f, "size": size, "oid": "0" * 40} for f, size in sizes.items()]
        siblings = [{"rfilename": file, "size": size} for file, size in sizes.items()]
        return {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes = b"",
        *,
        error: str = "",
        message: str = "",
        cut: int | None = None,
        xet: bool = False,
    ) -> None:
        whole, start = len(body), 0
        if (wanted := request.headers.get("Range", "")).startswith("bytes=") and status == 200:
            start, status = int(wanted[6:].split("-")[0]), 206
        request.send_response(status)
        request.send_header("Content-Length", str(whole - start))
        request.send_header("Content-Type", "application/json")
        request.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        by_xet = {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": self.url} if xet else {}
        for header, value in {"X-Error-Code": error, "X-Error-Message": message, **by_xet}.items():
            if value:
                request.send_header(header, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body[start : start + cut] if cut is not None else body[start:])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True


@contextlib.contextmanager
def mock_hub(monkeypatch, cache) -> Iterator[MockHub]:
    """A hub that this process' client asks, with an empty cache."""
    from huggingface_hub import constants

    hub = MockHub()
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever the tests run under
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
