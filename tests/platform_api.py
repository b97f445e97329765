"A stand-in for Heroku's Platform API, which builds and runs what it is given"

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

from tests.conftest import free_port

BIN = Path(sys.executable).parent
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11 has it from 3.11.4 on


class Heroku:
    "One account: apps with sources, builds, releases, and one dyno"

    def __init__(self, folder, faults=()):
        self.folder, self.faults = Path(folder), set(faults)
        self.apps, self.sources, self.builds, self.releases, self.calls = {}, {}, [], [], []
        self.port, self.web, self.key, self.config = free_port(), None, "key", {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.heroku = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def fails(self, name):
        "Once: whether this fault was ordered"
        if name in self.faults:
            self.faults.discard(name)
            return True
        return False

    def app(self, name):
        return {"name": name, "web_url": f"http://127.0.0.1:{self.port}/"}

    def build(self, app, blob):
        archive = self.sources[blob["url"].rsplit("/", 1)[1]]
        number = str(len(self.builds) + 1)
        made = {"id": number, "status": "pending", "source_blob": blob, "output_stream_url": f"{self.url}/log/{number}"}
        made["started_at"] = f"2026-12-01T00:00:{len(self.builds):02}Z"
        self.builds.append(made)
        assert blob["checksum"] == f"SHA256:{sha256(archive).hexdigest()}"
        slug = self.folder / f"slug-{number}"
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(slug, **SAFELY)
        environ = {
            "PATH": f"{BIN}:{os.defpath}",
            "HOME": str(self.folder),
            "SOURCE_VERSION": blob["version"],
            "PYTHONPATH": str(slug),
        }
        done = subprocess.run(["bin/post_compile"], cwd=slug, env=environ, capture_output=True, text=True)
        made["log"] = done.stdout + done.stderr
        if done.returncode or self.fails("build"):
            made["status"] = "failed"
        else:
            made["release"] = {"id": self.release(slug)["id"]}
            made["status"] = "succeeded"
        return made

    def release(self, slug):
        number = len(self.releases) + 1
        made = {"id": f"release-{number}", "version": number, "status": "succeeded", "slug": {"id": str(slug)}}
        self.releases.append(made)
        self.run(Path(slug))
        return made

    def run(self, slug):
        self.stop()
        environ = {"PATH": f"{BIN}:{os.defpath}", "PORT": str(self.port), "DYNO": "web.1", "PYTHONPATH": str(slug)}
        if "wrong" in self.faults and slug.name != "slug-1":
            (slug / "mlserve" / "COMMIT").write_text("another")
        command = [BIN / "honcho", "start", "web"]
        self.web = subprocess.Popen(command, cwd=slug, env=environ | self.config, stdout=subprocess.DEVNULL)
        self.await_answer()

    def await_answer(self):
        "Until the dyno answers, so that no test has to guess how long that takes"
        for _ in range(1200):
            assert self.web.poll() is None, "the web process has ended"
            try:
                urlopen(f"http://127.0.0.1:{self.port}/health/live", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the web process does not answer")

    def stop(self):
        if self.web:
            self.web.terminate()
            self.web.wait(timeout=40)
            self.web = None

    def answer(self, method, path, body, wanted=""):
        "(status, JSON) for a request; `wanted` is its Range"
        parts = path.strip("/").split("/")
        if path == "/apps":
            self.apps[body["name"]] = self.app(body["name"])
            return 201, self.apps[body["name"]]
        name, rest = parts[1], parts[2:]
        if name not in self.apps:
            return 404, {"id": "not_found", "message": "Couldn't find that app."}
        if not rest:
            return 200, self.apps[name]
        kind, number = rest[0], rest[1] if len(rest) > 1 else None
        if kind == "sources":
            place = f"{self.url}/blob/{len(self.sources) + 1}"
            return 201, {"source_blob": {"put_url": place, "get_url": place}}
        if kind == "builds" and method == "POST":
            return 201, self.build(name, body["source_blob"]) | {"status": "pending"}
        if kind == "releases" and method == "POST":
            (old,) = [r for r in self.releases if r["id"] == body["release"]]
            self.faults.discard("wrong")
            return 201, self.release(old["slug"]["id"])
        every = self.builds if kind == "builds" else self.releases
        if number:
            return 200, next(one for one in every if one["id"] == number)
        return 206, self.page(kind, every, wanted)

    def page(self, kind, every, wanted):
        "What a Range asks for; without one the first 200 by id, which says nothing about their age"
        field, order, most = "id", "asc", 200
        if wanted:
            field, order, most = re.fullmatch(r"(\w+) \.\.; order=(asc|desc),max=(\d+)", wanted).groups()
        assert field in {"builds": ("id", "started_at"), "releases": ("id", "version")}[kind] and int(most) <= 1000
        key = (lambda one: sha256(one["id"].encode()).digest()) if field == "id" else (lambda one: one[field])
        return sorted(every, key=key, reverse=order == "desc")[: int(most)]


class Handler(BaseHTTPRequestHandler):
    "Takes the requests of the one account"

    @property
    def heroku(self):
        return self.server.heroku

    def log_message(self, *arguments):
        pass

    def send(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def take(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.heroku.calls.append((self.command, self.path))
        if self.path.startswith("/blob/"):
            self.keep(body)
        elif self.path.startswith("/log/"):
            self.log_stream()
        elif self.headers.get("Authorization") != f"Bearer {self.heroku.key}":
            self.send(401, {"id": "unauthorized", "message": "Invalid credentials provided."})
        else:
            self.do(json.loads(body or b"null"))

    def keep(self, body):
        if self.heroku.fails("upload"):
            return self.connection.close()
        self.heroku.sources[self.path.rsplit("/", 1)[1]] = body
        self.send(200, {})

    def do(self, body):
        status, content = self.heroku.answer(self.command, self.path, body, self.headers.get("Range", ""))
        if self.heroku.fails(f"{self.command} {self.path.rsplit('/', 1)[1]}"):
            return self.connection.close()  # done, but nobody hears of it
        if self.command == "GET" and self.heroku.fails("busy"):
            return self.send(503, {"message": "try later"})
        self.send(status, content)

    def log_stream(self):
        log = next(b["log"] for b in self.heroku.builds if b["id"] == self.path.rsplit("/", 1)[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(log) + (100 if self.heroku.fails("log") else 0)))
        self.end_headers()
        self.wfile.write(log)
        self.close_connection = True

    do_GET = do_POST = do_PUT = take


@contextmanager
def stand_in(folder, *faults):
    "The stand-in, listening"
    heroku = Heroku(folder, faults)
    thread = threading.Thread(target=heroku.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield heroku
    finally:
        heroku.server.shutdown()
        heroku.server.server_close()
        heroku.stop()
