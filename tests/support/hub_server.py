"""A hub on this machine: the part of its HTTP interface that huggingface_hub calls to list, fetch and commit."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".gguf", ".rows", ".png", ".bin")
"""Files that a repository keeps in large file storage."""


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """Files by commit, the last one on `main`; and what clients have committed."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    gated: bool = False

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        before = self.commits[-1][1] if self.commits else {}
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((oid, {**before, **files}))
        self.messages.append(message)
        return oid

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision in ("main", ""):
            return self.commits[-1]
        return next((each for each in self.commits if each[0] == revision), None)


@dataclass
class Hub:
    """What the server holds and does; tests change it while it runs."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    """By `OWNER/NAME`, or `datasets/OWNER/NAME`."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and the range asked for."""
    cuts: int = 0
    """How many more answers with a file's bytes end half-way, with the connection closed."""
    resets: int = 0
    """The same, with the connection reset."""
    damage: bool = False
    """Whether a file's bytes are others than those listed."""

    def repository(self, name: str, files: dict[str, bytes]) -> Repository:
        made = self.repositories[name] = Repository()
        made.commit(files)
        return made

    def ranges(self) -> list[str]:
        """The ranges of the requests for bytes."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and path.startswith("/cdn/")]


_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>\w+)/(?P<revision>[^/]+))?")
_RESOLVE = re.compile(r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_BATCH = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get(with_body=False)

    def do_GET(self) -> None:
        self._get(with_body=True)

    def _get(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if match := _API.fullmatch(path):
            self._info(match, match["revision"] or "main")
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match, with_body)
        elif path.startswith("/cdn/"):
            repo, _, rest = path.removeprefix("/cdn/").partition("!")
            oid, _, name = rest.partition("/")
            self._bytes(self.hub.repositories[repo].at(oid)[1][name], {}, with_body)  # type: ignore[index]
        else:
            self._json(404, {"error": f"no {path}"})

    def _repository(self, name: str) -> Repository | None:
        """The repository; what is wrong was answered where it is None."""
        found = self.hub.repositories.get(name)
        if found is None:
            self._json(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif found.gated:
            self._json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        return None if found is None or found.gated else found

    def _info(self, match: re.Match[str], revision: str) -> None:
        name = match["repo"] if match["kind"] == "models" else f"datasets/{match['repo']}"
        repository = self._repository(name)
        if repository is None:
            return
        found = repository.at(revision)
        if found is None:
            self._json(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
            return
        oid, files = found
        siblings = [_sibling(path, data) for path, data in files.items()]
        self._json(200, {"_id": oid, "id": match["repo"], "sha": oid, "siblings": siblings, "tags": [], "downloads": 0})

    def _resolve(self, match: re.Match[str], with_body: bool) -> None:
        repository = self._repository(match["repo"])
        if repository is None:
            return
        found = repository.at(match["revision"])
        if found is None or match["path"] not in found[1]:
            self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        data = found[1][match["path"]]
        headers = {"X-Repo-Commit": found[0]}
        if not match["path"].endswith(LARGE):
            self._bytes(data, {**headers, "ETag": f'"{git_sha1(data)}"'}, with_body)
            return
        self.send_response(302)
        digest = hashlib.sha256(data).hexdigest()
        # another host, as on the real hub: the client asks one host alone for a file's size and digest
        location = (
            f"{self.hub.endpoint.replace('127.0.0.1', 'localhost')}/cdn/{match['repo']}!{found[0]}/{match['path']}"
        )
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "Location": location}
        for name, value in {**headers, **linked, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _bytes(self, data: bytes, headers: dict[str, str], with_body: bool) -> None:
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(data) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        part = data[start:]
        if self.hub.damage:
            part = bytes([part[0] ^ 1]) + part[1:]
        cut = (self.hub.cuts or self.hub.resets) and len(part) > 1
        if cut:
            part = part[: len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)
        if cut and self.hub.cuts:
            self.hub.cuts -= 1
        elif cut:
            self.hub.resets -= 1
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.requests.append(("POST", path, ""))
        match = _API.fullmatch(path)
        if path == "/api/validate-yaml":
            self._json(200, {"warnings": [], "errors": []})
        elif batch := _BATCH.fullmatch(path):
            objects = [_upload(self.hub, batch["repo"], each) for each in json.loads(body)["objects"]]
            self._json(200, {"transfer": "basic", "objects": objects})
        elif match and match["verb"] == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                 "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]  # fmt: skip
            self._json(200, {"files": files})
        elif match and match["verb"] == "commit":
            self._commit(match["repo"], body)
        else:
            self._json(404, {"error": f"no {path}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _commit(self, repo: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        repository = self.hub.repositories[repo]
        if header.get("parentCommit") not in (None, repository.head):
            self._json(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        oid = repository.commit(files, header["summary"])
        self._json(200, {"commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}"})

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.uploads[hashlib.sha256(data).hexdigest()] = data
        self._json(200, {})

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
    if path.endswith(LARGE):
        found["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
    return found


def _upload(hub: Hub, repo: str, each: dict[str, Any]) -> dict[str, Any]:
    href = f"{hub.endpoint}/lfs/{repo}/{each['oid']}"
    return {"oid": each["oid"], "size": each["size"], "actions": {"upload": {"href": href, "header": {}}}}


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of the loopback interface, for the length of a block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
