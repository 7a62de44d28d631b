"""The small part of the hub's API that prefetch uses, on a free port, with repositories of a test's own.

GET /api/<kind>/<repo>[/revision/<revision>]?blobs=true and GET [/datasets]/<repo>/resolve/<commit>/<file>, as the hub
documents them (huggingface.co/docs/hub/api): siblings with size, git blob id and LFS sha256, Range, X-Error-Code.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

LFS = (".safetensors", ".bin", ".parquet", ".gguf")


@dataclass
class Hub:
    """repos: (kind, repo) -> revision -> files. cut: file -> how often its transfer is cut half way. spoilt: files of
    which other bytes are sent. stalled: files whose transfer stops half way, the connection left open. gated:
    repositories whose files need a licence. whole: Range is ignored. seen: (path, Range) of each request."""

    repos: dict = field(default_factory=dict)
    cut: dict = field(default_factory=dict)
    spoilt: set = field(default_factory=set)
    stalled: dict = field(default_factory=dict)
    gated: set = field(default_factory=set)
    whole: bool = False
    seen: list = field(default_factory=list)
    url: str = ""

    def add(self, kind, repo, files, revision="main"):
        commit = hashlib.sha1(repr((kind, repo, sorted(files.items()))).encode()).hexdigest()
        trees = self.repos.setdefault((kind, repo), {})
        trees[revision] = trees[commit] = (commit, files)
        return commit

    def downloads(self):
        return [(path.rpartition("/resolve/")[2].partition("/")[2], r) for path, r in self.seen if "/resolve/" in path]


def _sibling(name, data):
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    out = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(LFS):
        out["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return out


def _card(files):
    match = re.match(rb"---\n(.*?)\n---\n", files.get("README.md", b""), flags=re.DOTALL)
    return {"cardData": yaml.safe_load(match[1])} if match else {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, body=b"", headers=()):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server.hub, urlsplit(self.path).path
        hub.seen.append((path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.listing(hub, match[1], match[2], unquote(match[3] or "main"))
        elif match := re.fullmatch(r"(/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(hub, "datasets" if match[1] else "models", match[2], match[3], unquote(match[4]))
        else:
            self.reply(404)

    def do_HEAD(self):
        """The headers that huggingface_hub's own download asks for first."""
        match = re.fullmatch(r"(/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", urlsplit(self.path).path)
        commit, files = self.server.hub.repos["datasets" if match[1] else "models", match[2]][match[3]]
        data = files[unquote(match[4])]
        self.send_response(200)
        about = {"Content-Length": len(data), "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
        for key, value in about.items():
            self.send_header(key, str(value))
        self.end_headers()

    def listing(self, hub, kind, repo, revision):
        if (kind, repo) not in hub.repos:
            self.reply(401, headers={"X-Error-Code": "RepoNotFound"})
        elif revision not in hub.repos[kind, repo]:
            self.reply(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            commit, files = hub.repos[kind, repo][revision]
            siblings = [_sibling(name, data) for name, data in files.items()]
            body = {"id": repo, "sha": commit, "siblings": siblings, "tags": [], "private": False, **_card(files)}
            self.reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def file(self, hub, kind, repo, commit, name):
        if repo in hub.gated:
            self.reply(403, b"Access restricted", {"X-Error-Code": "GatedRepo"})
            return
        data = hub.repos[kind, repo][commit][1][name]
        if name in hub.spoilt:
            data = data[::-1]
        match = re.fullmatch(r"bytes=(\d+)-", "" if hub.whole else self.headers.get("Range") or "")
        rest = data[int(match[1]) if match else 0 :]
        if hub.cut.get(name, 0) or name in hub.stalled:
            self.send_response(206 if match else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.close_connection = True
            if hub.cut.get(name, 0):
                hub.cut[name] -= 1
            else:
                hub.stalled[name].wait(30)
            return
        self.reply(206 if match else 200, rest, {"X-Repo-Commit": commit})

    def log_message(self, *args):
        pass


@contextmanager
def serving(hub):
    """Serve a hub; its address is `hub.url` meanwhile."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads, server.hub = True, hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
