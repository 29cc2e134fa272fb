"""A small Hugging Face Hub on loopback, for tests of pushing and loading back.

It speaks the part of the Hub's HTTP API that ``huggingface_hub`` uses to create a repository, commit to it (small
files inside the commit, large ones through git-lfs), list it and download from it. There are no branches but
``main``, no private repositories, no pull requests and no Xet (set ``HF_HUB_DISABLE_XET=1``). What it does not know it
answers with 404 and remembers in :attr:`HubServer.unknown_requests`, so that a test sees what the client missed.

On disk, below the folder given to :class:`HubServer`::

    models/NAMESPACE/NAME/refs.json            {"main": COMMIT}
    models/NAMESPACE/NAME/commits/COMMIT/...   the files as they stood at that commit

the same under ``datasets/``, and what came through git-lfs as ``lfs/SHA256``.
"""

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NO_COMMIT = "0" * 40
USER = "tester"
# What the real Hub sends to git-lfs by default is told by .gitattributes; these are its entries that matter here.
LFS_SUFFIXES = {".safetensors", ".bin", ".parquet", ".arrow"}
# A path of a repository inside a URL; a model's has no prefix, a dataset's has one.
API = r"^/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
WEB = r"^/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+?)"


class HubError(Exception):
    """An answer other than success; ``code`` is what the client reads from ``X-Error-Code``."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.commit = status, code, commit


class Repository:
    """One repository on disk: a folder for each commit, and which of them ``main`` is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self) -> None:
        if self.folder.exists():
            raise HubError(409, "You already created this repo")
        (self.folder / "commits" / NO_COMMIT).mkdir(parents=True)
        self._move_main(NO_COMMIT)

    def resolve(self, revision: str) -> str:
        """The commit that a branch name or a commit hash stands for."""
        if not self.folder.exists():
            raise HubError(404, f"no repository {self.folder.name}", "RepoNotFound")
        commit = json.loads((self.folder / "refs.json").read_text()).get(revision, revision)
        if not (self.folder / "commits" / commit).is_dir():
            raise HubError(404, f"no revision {revision}", "RevisionNotFound")
        return commit

    def files(self, commit: str) -> Path:
        return self.folder / "commits" / commit

    def file(self, revision: str, path: str) -> tuple[str, Path]:
        commit = self.resolve(revision)
        file = self.files(commit) / path
        if not file.is_file():
            raise HubError(404, f"no file {path}", "EntryNotFound", commit)
        return commit, file

    def commit(self, revision: str, lines: list[dict[str, Any]], lfs: Path) -> str:
        """Applies the lines of a commit (newline-delimited JSON) to the files of ``revision``."""
        parent = self.resolve(revision)
        digest = hashlib.sha1(json.dumps([parent, lines]).encode()).hexdigest()
        target = self.files(digest)
        shutil.copytree(self.files(parent), target)
        for line in lines:
            if line["key"] == "header":
                continue
            file = target / _inside(line["value"]["path"])
            file.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "file":
                file.write_bytes(base64.b64decode(line["value"]["content"]))
            elif line["key"] == "lfsFile":
                shutil.copyfile(lfs / line["value"]["oid"], file)
            elif line["key"] == "deletedFile":
                file.unlink()
            else:
                raise HubError(400, f"commit with an operation this server does not know: {line['key']}")
        self._move_main(digest)
        return digest

    def entry(self, commit: str, path: Path) -> dict[str, Any]:
        """A file or folder as the tree listing describes it."""
        name = path.relative_to(self.files(commit)).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        described: dict[str, Any] = {"type": "file", "path": name, "oid": blob, "size": len(content)}
        if path.suffix in LFS_SUFFIXES:
            oid = hashlib.sha256(content).hexdigest()
            described["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
        return described

    def _move_main(self, commit: str) -> None:
        (self.folder / "refs.json").write_text(json.dumps({"main": commit}))


class HubServer:
    """Serves the repositories below ``root`` until the ``with`` block ends.

    Args:
        root: folder for the repositories; created, and kept afterwards.

    Example:
        >>> with HubServer(tmp_path) as hub:
        ...     subprocess.run(command, env={**os.environ, **hub.environment()})
    """

    token = "hf_loopback"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lfs = root / "lfs"
        self.lfs.mkdir(parents=True)
        self.unknown_requests: list[str] = []
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self) -> dict[str, str]:
        """The variables that lead a process of ``huggingface_hub`` here."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def repository(self, kind: str, repo: str) -> Repository:
        return Repository(self.root / kind / _inside(repo))

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _inside(path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise HubError(400, f"path {path!r} leaves the repository")
    return path


class _Handler(BaseHTTPRequestHandler):
    """Finds the route of a request and turns what it returns, or the error it raises, into an answer."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    query: dict[str, list[str]]
    body: bytes

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.hub.requests.append(f"{self.command} {self.path}")
        try:
            for method, pattern, function in ROUTES:
                found = re.match(pattern, url.path)
                if found and self.command in method.split():
                    if self.command == "POST":
                        self.authorize()
                    function(self, **{name: unquote(part or "") for name, part in found.groupdict().items()})
                    return
            self.hub.unknown_requests.append(f"{self.command} {self.path}")
            raise HubError(404, f"this server does not know {self.command} {url.path}")
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error), "X-Repo-Commit": error.commit}
            self.send({"error": str(error)}, status=error.status, headers={k: v for k, v in headers.items() if v})

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def authorize(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            raise HubError(401, "Invalid username or password.")

    def send(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answers with bytes as they are, with anything else as JSON; the body stays away on HEAD."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, content: bytes, headers: dict[str, str]) -> None:
        """Answers with a file, or with the part of it that a Range header asks for."""
        headers = {"Accept-Ranges": "bytes", **headers}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.send(content[first : last + 1], status=206, headers=headers)
        else:
            self.send(content, headers=headers)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: pytest shows what a test prints, and the requests are kept in ``hub.requests``."""


def whoami(request: _Handler) -> None:
    request.authorize()
    request.send({"name": USER, "type": "user", "orgs": [], "auth": {"type": "access_token"}})


def agent_harnesses(request: _Handler) -> None:
    """The client asks which programs drive it, to name them in its user agent. None, here."""
    request.send({"standardEnvVars": [], "harnesses": {}})


def validate_yaml(request: _Handler) -> None:
    content = json.loads(request.body)["content"]
    missing = not re.match(r"---\n.*?\n---\n", content, re.DOTALL)
    request.send({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}] if missing else []})


def create_repository(request: _Handler) -> None:
    wanted = json.loads(request.body)
    repo = f"{wanted.get('organization') or USER}/{wanted['name']}"
    kind = f"{wanted.get('type', 'model')}s"
    prefix = "" if kind == "models" else f"{kind}/"
    url = f"{request.hub.endpoint}/{prefix}{repo}"
    try:
        request.hub.repository(kind, repo).create()
        request.send({"url": url})
    except HubError as error:
        request.send({"error": str(error), "url": url}, status=error.status)


def preupload(request: _Handler, kind: str, repo: str, revision: str) -> None:
    request.hub.repository(kind, repo).resolve(revision)
    modes = []
    for file in json.loads(request.body)["files"]:
        large = PurePosixPath(file["path"]).suffix in LFS_SUFFIXES
        modes.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
    request.send({"files": modes})


def lfs_batch(request: _Handler, kind: str, repo: str) -> None:
    objects = []
    for wanted in json.loads(request.body)["objects"]:
        described = {"oid": wanted["oid"], "size": wanted["size"]}
        if not (request.hub.lfs / _inside(wanted["oid"])).exists():
            described["actions"] = {"upload": {"href": f"{request.hub.endpoint}/lfs-objects/{wanted['oid']}"}}
        objects.append(described)
    request.send({"transfer": "basic", "objects": objects})


def lfs_upload(request: _Handler, oid: str) -> None:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, f"content of {oid} has another hash")
    (request.hub.lfs / oid).write_bytes(request.body)
    request.send({})


def commit(request: _Handler, kind: str, repo: str, revision: str) -> None:
    lines = [json.loads(line) for line in request.body.splitlines()]
    with request.hub.lock:
        digest = request.hub.repository(kind, repo).commit(revision, lines, request.hub.lfs)
    prefix = "" if kind == "models" else f"{kind}/"
    url = f"{request.hub.endpoint}/{prefix}{repo}/commit/{digest}"
    request.send({"success": True, "commitOid": digest, "commitUrl": url, "hookOutput": ""})


def information(request: _Handler, kind: str, repo: str, revision: str) -> None:
    repository = request.hub.repository(kind, repo)
    digest = repository.resolve(revision or "main")
    folder = repository.files(digest)
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    request.send(
        {
            "id": repo,
            "sha": digest,
            "private": False,
            "tags": [],
            "lastModified": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": name} for name in names],
        },
        headers={"X-Repo-Commit": digest},
    )


def tree(request: _Handler, kind: str, repo: str, revision: str, path: str) -> None:
    repository = request.hub.repository(kind, repo)
    digest = repository.resolve(revision)
    folder = repository.files(digest) / _inside(path.strip("/"))
    if not folder.is_dir():
        raise HubError(404, f"no folder {path}", "EntryNotFound", digest)
    found = folder.rglob("*") if request.query.get("recursive", [""])[0].lower() == "true" else folder.iterdir()
    request.send([repository.entry(digest, entry) for entry in sorted(found)])


def paths_info(request: _Handler, kind: str, repo: str, revision: str) -> None:
    repository = request.hub.repository(kind, repo)
    digest = repository.resolve(revision)
    wanted = [repository.files(digest) / _inside(path) for path in parse_qs(request.body.decode())["paths"]]
    request.send([repository.entry(digest, path) for path in wanted if path.exists()])


def resolve(request: _Handler, kind: str, repo: str, revision: str, path: str) -> None:
    """A file at a revision.

    The real Hub redirects files of git-lfs to another host and puts what the client needs into that answer. Loopback
    has one host, and a redirect within it would be followed and lose those headers; so both come at once.
    """
    repository = request.hub.repository(kind.strip("/") or "models", repo)
    digest, file = repository.file(revision, _inside(path))
    described = repository.entry(digest, file)
    headers = {"X-Repo-Commit": digest, "ETag": f'"{described["oid"]}"'}
    if "lfs" in described:
        headers |= {"X-Linked-Etag": f'"{described["lfs"]["oid"]}"', "X-Linked-Size": str(described["size"])}
    request.send_file(file.read_bytes(), headers)


ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"^/api/whoami-v2$", whoami),
    ("GET", r"^/api/agent-harnesses$", agent_harnesses),
    ("POST", r"^/api/validate-yaml$", validate_yaml),
    ("POST", r"^/api/repos/create$", create_repository),
    ("POST", rf"{API}/preupload/(?P<revision>[^/]+)$", preupload),
    ("POST", rf"{API}/commit/(?P<revision>[^/]+)$", commit),
    ("POST", rf"{API}/paths-info/(?P<revision>[^/]+)$", paths_info),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(?P<path>/.*)?$", tree),
    ("GET", rf"{API}(/revision/(?P<revision>[^/]+))?$", information),
    ("POST", rf"{WEB}\.git/info/lfs/objects/batch$", lfs_batch),
    ("PUT", r"^/lfs-objects/(?P<oid>[0-9a-f]{64})$", lfs_upload),
    ("GET HEAD", rf"{WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)$", resolve),
]
