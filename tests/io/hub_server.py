"""usage: hub_server.py FOLDER: behaves like the Hugging Face hub.

FOLDER/repos/org/name/ holds the files of a model at commit FOLDER/commit (else
forty a's); *.safetensors, *.gguf and tokenizer.json lie on a second server,
under another host name, to which the first one redirects, as the hub does with
large files. Prints both ports. FOLDER/plan.json is read for each request:

    {"rules": [{"method": "GET", "path": "part of it", "store": true,
                "times": 2, "status": 429, "headers": {...}, "body": "...",
                "cut": 1000, "stall": 60, "drip": 0.1, "etag": "...", "size": 5,
                "no_range": true, "bad_range": true, "redirect": "..."}],
     "siblings": ["..."], "private": "token"}

The first rule that fits and is not used up counts. FOLDER/log.jsonl gets a
line for each request. Ends with its standard input, and after two minutes.
"""

import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDER = Path(sys.argv[1])
LOCK = threading.Lock()
USED = {}
ACTIVE = {}  # requests that each server answers just now
LIFETIME = 120


def is_large(name):
    return name.endswith((".safetensors", ".gguf", "tokenizer.json"))


def etag_of(path):
    data = path.read_bytes()
    if is_large(path.name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        with LOCK:
            ACTIVE[self.server] = ACTIVE.get(self.server, 0) + 1
        try:
            self.answer()
        finally:
            with LOCK:
                ACTIVE[self.server] -= 1

    def do_HEAD(self):
        self.answer()

    @property
    def is_store(self):
        return self.server is STORE

    def plan(self):
        try:
            return json.loads((FOLDER / "plan.json").read_text())
        except FileNotFoundError:
            return {}

    def rule(self, plan):
        for number, rule in enumerate(plan.get("rules", [])):
            if rule.get("method", self.command) != self.command:
                continue
            if rule.get("path", "") not in self.path:
                continue
            if rule.get("store", self.is_store) != self.is_store:
                continue
            key = json.dumps([number, rule])
            with LOCK:
                USED[key] = USED.get(key, 0) + 1
                if USED[key] <= rule.get("times", 1 << 30):
                    return rule
        return {}

    def send(self, status, headers=(), body=b"", rule=()):
        rule = dict(rule)
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **dict(headers),
                   **rule.get("headers", {})}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = rule.get("cut")
        if cut is not None:
            body = body[:cut]
        try:
            if "drip" in rule:
                for i in range(0, len(body), 1000):
                    self.wfile.write(body[i:i + 1000])
                    self.wfile.flush()
                    time.sleep(rule["drip"])
            else:
                self.wfile.write(body)
            self.wfile.flush()
            time.sleep(rule.get("stall", 0))
        except OSError:
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def answer(self):
        plan = self.plan()
        rule = self.rule(plan)
        with LOCK, open(FOLDER / "log.jsonl", "a") as log:
            log.write(json.dumps({
                "method": self.command, "path": self.path,
                "store": self.is_store, "host": self.headers["Host"],
                "active": ACTIVE.get(self.server, 0),
                "token": self.headers.get("Authorization", ""),
                "range": self.headers.get("Range", "")}) + "\n")
        if "redirect" in rule:
            return self.send(302, {"Location": rule["redirect"]})
        if "status" in rule:
            return self.send(rule["status"], rule=rule,
                             body=rule.get("body", "").encode())
        secret = plan.get("private")
        if secret and not self.is_store:
            if self.headers.get("Authorization") != "Bearer " + secret:
                return self.send(401, body=b"no")
        parts = [unquote(p) for p in urlsplit(self.path).path.split("/")[1:]]
        if parts[:2] == ["api", "models"]:
            return self.describe(parts[2:], plan, rule)
        return self.resolve(parts, rule)

    def commit(self):
        path = FOLDER / "commit"
        return path.read_text().strip() if path.exists() else "a" * 40

    def describe(self, parts, plan, rule):
        repo = FOLDER / "repos" / parts[0] / parts[1]
        if not repo.is_dir():
            return self.send(404, {"X-Error-Code": "RepoNotFound"})
        if parts[3] not in ("main", self.commit()):
            return self.send(404, {"X-Error-Code": "RevisionNotFound"})
        names = plan.get("siblings") or sorted(
            str(p.relative_to(repo)) for p in repo.rglob("*") if p.is_file())
        body = json.dumps({
            "id": "/".join(parts[:2]), "sha": self.commit(),
            "siblings": [{"rfilename": name} for name in names]})
        body = rule.get("body", body)
        self.send(200, {"Content-Type": "application/json"}, body.encode(),
                  rule)

    def resolve(self, parts, rule):
        repo = FOLDER / "repos" / parts[0] / parts[1]
        path = repo.joinpath(*parts[4:])
        if parts[2] != "resolve" or not path.is_file():
            return self.send(404, {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        etag = rule.get("etag", etag_of(path))
        size = rule.get("size", len(data))
        if is_large(path.name) and not self.is_store:
            return self.send(302, {
                "Location": f"http://localhost:{STORE.server_port}{self.path}"
                            "?signature=secret",
                "X-Repo-Commit": self.commit(),
                "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)},
                rule=rule)
        headers = {"X-Repo-Commit": self.commit(), "ETag": f'W/"{etag}"'}
        wanted = self.headers.get("Range")
        if wanted and not rule.get("no_range"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return self.send(416)
            at = start + 1 if rule.get("bad_range") else start
            headers["Content-Range"] = \
                f"bytes {at}-{len(data) - 1}/{len(data)}"
            return self.send(206, headers, data[start:], rule)
        self.send(200, headers, data, rule)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that went away


def serve(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()


HUB = Server(("127.0.0.1", 0), Handler)
STORE = Server(("127.0.0.1", 0), Handler)
serve(HUB)
serve(STORE)
print(HUB.server_port, STORE.server_port, flush=True)
threading.Timer(LIFETIME, lambda: os._exit(1)).start()
sys.stdin.read()
os._exit(0)
