# SPDX-License-Identifier: Apache-2.0
"""A Hub on 127.0.0.1, in memory: what the Hugging Face libraries ask of one, and no more.

It answers models, datasets and spaces; commits, branches, tags and pinned commits; LFS up and down
with ranges; private repositories; and the Hub's own error codes.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "loopback" * 5  # in two parts: no scanner shall take it for a real one
USER = "tester"
_LFS_SUFFIXES = {
    ".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".onnx", ".npy", ".zip", ".gz",
    ".png", ".jpg", ".jpeg", ".gif", ".webp",
}  # fmt: skip
_LFS_BYTES = 10 * 1024 * 1024
_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_SHA = re.compile(r"[0-9a-f]{40}")


class Blob(NamedTuple):
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """The id that git gives it: of the content, or of the pointer that stands for it."""
        content = self.content
        if self.lfs:
            content = (
                "version https://git-lfs.github.com/spec/v1\n"
                f"oid sha256:{self.sha256}\nsize {len(self.content)}\n"
            ).encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    kind: str
    name: str
    private: bool
    sdk: str | None = None
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob], message: str) -> str:
        text = f"{self.name} {branch} {len(self.commits)} {message} {sorted(files)}"
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.branches[branch] = files, message, sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or a commit names."""
        if _SHA.fullmatch(revision):
            return revision if revision in self.commits else None
        return self.branches.get(revision) or self.tags.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.commits[self.resolve(revision)].items()}


class RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers
        if code:
            self.headers["X-Error-Code"] = code


class LoopbackHub:
    """A Hub that lives as long as the `with` block.

    Attributes:
        url: what `HF_ENDPOINT` must say.
        storage_url: where large files lie: on another host, as far as a client can tell, to which
            it must not carry its token.
        repositories: (kind, "owner/name") -> [`Repository`]; kind is model, dataset or space.
        requests: "METHOD path" of each request so far.
        unknown: those that this Hub has no answer for.
        fail: given "METHOD path", says with which status to fail instead of answering; 0 for none.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.fail: Callable[[str], int] = lambda request: 0
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            for server in self._servers
        ]
        self.url, self.storage_url = (
            f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers
        )

    def __enter__(self) -> "LoopbackHub":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Be gone: nothing listens any more."""
        for server, thread in zip(self._servers, self._threads, strict=True):
            if thread.is_alive():
                server.shutdown()
                thread.join()
            server.server_close()

    def __getitem__(self, name: str) -> Repository:
        """Return a repository as its address names it: "org/cks", "datasets/org/mod"."""
        first, _, rest = name.partition("/")
        return self.repositories[(_KINDS[first], rest) if first in _KINDS else ("model", name)]

    def environment(self, home: object) -> dict[str, str]:
        """Return what a process must have in its environment before it imports a library."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    # Without these, head and body of an answer wait 40 ms for each other.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802 (the library's name)
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        self.body = self._read_body()
        path = urlsplit(self.path).path
        request = f"{self.command} {unquote(path)}"
        self.hub.requests.append(request)
        try:
            if status := self.hub.fail(request):
                raise RefusedError(status, "this Hub is told to fail")
            with self.hub.lock:
                self._route(path)
        except RefusedError as error:
            body = json.dumps({"error": str(error)}).encode()
            self._send(error.status, body, {"X-Error-Message": str(error), **error.headers})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str) -> None:
        for method, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                given = {key: unquote(text or "") for key, text in found.groupdict().items()}
                getattr(self, name)(**given)
                return
        self.hub.unknown.append(f"{self.command} {path}")
        raise RefusedError(404, f"this Hub knows no {self.command} {path}")

    # What is asked of the Hub as a whole

    def whoami(self) -> None:
        self._need_token()
        self._json({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {}})

    def harnesses(self) -> None:
        self._json({})

    def validate(self) -> None:
        content = json.loads(self.body)["content"]
        if content.startswith("---") and "\n---" not in content[3:]:
            self._json({"errors": [{"message": "the YAML block does not end"}]}, 400)
        else:
            self._json({"errors": [], "warnings": []})

    def create(self) -> None:
        self._need_token()
        asked = json.loads(self.body)
        kind = asked.get("type", "model")
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        url = self.hub.url + ("" if kind == "model" else f"/{kind}s") + f"/{name}"
        if (kind, name) in self.hub.repositories:
            self._json({"error": "You already created this repo", "url": url}, 409)
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        repository = Repository(kind, name, bool(private), asked.get("sdk"))
        attributes = "".join(f"*{one} filter=lfs diff=lfs merge=lfs\n" for one in _LFS_SUFFIXES)
        files = {".gitattributes": Blob(attributes.encode(), lfs=False)}
        repository.commit("main", files, "initial commit")
        self.hub.repositories[kind, name] = repository
        self._json({"url": url, "name": name, "id": "0"})

    def stored(self, oid: str) -> None:
        if "Authorization" in self.headers:
            raise RefusedError(400, "a token was carried to the storage")
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise RefusedError(400, "the content is not what its oid says")
            self.hub.large[oid] = self.body
            self._send(200, b"")
        else:
            self._content(self.hub.large[oid], f'"{oid}"', {})

    # What is asked of a repository

    def info(self, kinds: str, repo: str, revision: str = "") -> None:
        repository = self._repository(_KINDS[kinds], repo)
        sha = self._commit(repository, revision)
        self._json(
            {
                "id": repo,
                "sha": sha,
                "private": repository.private,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "disabled": False,
                "gated": False,
                "sdk": repository.sdk,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": path} for path in repository.commits[sha]],
            }
        )

    def tree(self, kinds: str, repo: str, revision: str, folder: str = "") -> None:
        repository = self._repository(_KINDS[kinds], repo)
        sha = self._commit(repository, revision)
        query = parse_qs(urlsplit(self.path).query)
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = _entries(repository.commits[sha])
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise RefusedError(404, f"{folder} is no folder", "EntryNotFound")
        start = PurePosixPath(folder)
        self._json(
            [
                entry
                for path, entry in entries.items()
                if start in PurePosixPath(path).parents
                and (recursive or PurePosixPath(path).parent == start)
            ]
        )

    def paths(self, kinds: str, repo: str, revision: str) -> None:
        repository = self._repository(_KINDS[kinds], repo)
        entries = _entries(repository.commits[self._commit(repository, revision)])
        if "json" in self.headers.get("Content-Type", ""):
            asked = json.loads(self.body)["paths"]
        else:
            asked = parse_qs(self.body.decode()).get("paths", [])
        self._json([entries[path] for path in asked if path in entries])

    def refs(self, kinds: str, repo: str) -> None:
        repository = self._repository(_KINDS[kinds], repo)

        def listed(kind: str, named: dict[str, str]) -> list[dict]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
                for name, sha in named.items()
            ]

        self._json(
            {
                "branches": listed("heads", repository.branches),
                "tags": listed("tags", repository.tags),
                "converts": [],
                "pullRequests": [],
            }
        )

    def branch(self, kinds: str, repo: str, name: str) -> None:
        self._need_token()
        repository = self._repository(_KINDS[kinds], repo)
        if name in repository.branches:
            raise RefusedError(409, f"branch {name} exists")
        start = (json.loads(self.body or b"{}") or {}).get("startingPoint", "main")
        repository.branches[name] = self._commit(repository, start)
        self._send(201, b"")

    def tag(self, kinds: str, repo: str, revision: str) -> None:
        self._need_token()
        repository = self._repository(_KINDS[kinds], repo)
        name = json.loads(self.body)["tag"]
        if name in repository.tags:
            raise RefusedError(409, f"tag {name} exists")
        repository.tags[name] = self._commit(repository, revision)
        self._send(201, b"")

    def preupload(self, kinds: str, repo: str, revision: str) -> None:
        self._need_token()
        repository = self._repository(_KINDS[kinds], repo)
        sha = self._branch_head(repository, revision)
        there = repository.commits[sha]
        answers = []
        for one in json.loads(self.body)["files"]:
            sample = base64.b64decode(one["sample"])
            large = PurePosixPath(one["path"]).suffix in _LFS_SUFFIXES
            large = large or one["size"] > _LFS_BYTES or b"\0" in sample
            answer = {"path": one["path"], "shouldIgnore": False}
            answer["uploadMode"] = "lfs" if large else "regular"
            if (blob := there.get(one["path"])) is not None:
                answer["oid"] = blob.sha256 if blob.lfs else blob.oid
            answers.append(answer)
        self._json({"files": answers, "commitOid": sha})

    def batch(self, repo: str, kinds: str = "") -> None:
        self._need_token()
        self._repository(_KINDS[kinds or "models"], repo)
        objects = []
        for one in json.loads(self.body)["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.large:
                address = f"{self.hub.storage_url}/large/{one['oid']}"
                answer["actions"] = {"upload": {"href": address}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def commit(self, kinds: str, repo: str, revision: str) -> None:
        self._need_token()
        repository = self._repository(_KINDS[kinds], repo)
        head = self._branch_head(repository, revision)
        files = dict(repository.commits[head])
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            path = value.get("path", "")
            if key == "header":
                message = value["summary"]
                if not head.startswith(value.get("parentCommit", "")):
                    raise RefusedError(412, "A commit has happened since. Please refresh.")
            elif key == "file":
                files[path] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise RefusedError(400, f"{path}: its content was never uploaded")
                files[path] = Blob(self.hub.large[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if files.pop(path, None) is None:
                    raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
            elif key == "deletedFolder":
                start = path.rstrip("/") + "/"
                files = {name: blob for name, blob in files.items() if not name.startswith(start)}
            else:
                raise RefusedError(400, f"a commit has no {key}")
        sha = repository.commit(revision, files, message)
        url = self.hub.url + ("" if kinds == "models" else f"/{kinds}")
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{url}/{repo}/commit/{sha}"})

    def resolve(self, repo: str, revision: str, path: str, kinds: str = "") -> None:
        repository = self._repository(_KINDS[kinds or "models"], repo)
        sha = self._commit(repository, revision)
        headers = {"X-Repo-Commit": sha}
        blob = repository.commits[sha].get(path)
        if blob is None:
            raise RefusedError(
                404, f"{path} is not there", "EntryNotFound", **{"X-Repo-Commit": sha}
            )
        headers = {"X-Repo-Commit": sha}
        if blob.lfs:
            # As from the Hub, whose large files lie elsewhere.
            headers |= {
                "X-Linked-Etag": f'"{blob.sha256}"',
                "X-Linked-Size": str(len(blob.content)),
            }
            headers["Location"] = f"{self.hub.storage_url}/large/{blob.sha256}"
            self._send(302, b"", headers)
        else:
            self._content(blob.content, f'"{blob.oid}"', headers)

    # Answers

    def _need_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, "Invalid username or password.")

    def _repository(self, kind: str, repo: str) -> Repository:
        repository = self.hub.repositories.get((kind, repo))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        sha = repository.resolve(revision or "main")
        if sha is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def _branch_head(self, repository: Repository, revision: str) -> str:
        if revision not in repository.branches:
            raise RefusedError(404, f"no branch {revision}", "RevisionNotFound")
        return repository.branches[revision]

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _content(self, content: bytes, etag: str, headers: dict[str, str]) -> None:
        headers = {"ETag": etag, "Accept-Ranges": "bytes", **headers}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self._send(200, content, headers)
            return
        first, last = asked.groups()
        total = len(content)
        start = int(first) if first else max(0, total - int(last))
        stop = min(int(last) + 1, total) if first and last else total
        if start >= total:
            self._send(416, b"", {**headers, "Content-Range": f"bytes */{total}"})
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        self._send(206, content[start:stop], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entries(files: dict[str, Blob]) -> dict[str, dict]:
    """List files and the folders above them, as the Hub's tree does."""
    entries: dict[str, dict] = {}
    for path, blob in sorted(files.items()):
        for parent in list(PurePosixPath(path).parents)[:-1]:
            folder = {"type": "directory", "path": str(parent), "oid": "0" * 40, "size": 0}
            entries.setdefault(str(parent), folder)
        entry = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
        entries[path] = entry
    return entries


_API = r"/api/(?P<kinds>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
_ADDRESS = r"/(?:(?P<kinds>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)"
_ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("GET", r"/api/agent-harnesses", "harnesses"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/repos/create", "create"),
    ("GET HEAD PUT", r"/large/(?P<oid>[0-9a-f]{64})", "stored"),
    ("GET HEAD", _API, "info"),
    ("GET", _API + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
    ("POST", _API + r"/paths-info/(?P<revision>[^/]+)", "paths"),
    ("GET", _API + r"/refs", "refs"),
    ("POST", _API + r"/branch/(?P<name>[^/]+)", "branch"),
    ("POST", _API + r"/tag/(?P<revision>[^/]+)", "tag"),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", _API + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", _ADDRESS + r"\.git/info/lfs/objects/batch", "batch"),
    ("GET HEAD", _ADDRESS + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)
