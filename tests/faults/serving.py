"Services as processes of their own, and clients that see everything that happens on their connections."

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import psutil

from tests.ports import free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OURS = """
import sys
from mlserve.serve import errors_told, run
from mlserve.settings import load_settings
with errors_told():
    sys.exit(run(load_settings(), "stub_app:create"))
"""


def environment(port, **settings):
    "The environment of a service; `settings` are of the section [serve]"
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("MLSERVE_") and k not in ("PORT", "WEB_CONCURRENCY", "DATABASE_URL")
    }
    given = {f"MLSERVE_SERVE_{name.upper()}": str(value) for name, value in settings.items()}
    return kept | {"PORT": str(port), "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}"} | given


def command_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Service:
    "A running service"

    def __init__(self, process, port, workers, temporary, output):
        self.process, self.port, self.count, self.temporary = process, port, workers, Path(temporary)
        self.output = output
        self.root = psutil.Process(process.pid)

    @property
    def workers(self):
        "The processes that answer"
        if self.count == 1:
            return [self.root]
        return [p for p in self.root.children(recursive=True) if "spawn_main" in command_of(p)]

    @property
    def everybody(self):
        return [self.root, *self.root.children(recursive=True)]

    def rss(self):
        return sum(p.memory_info().rss for p in self.workers)

    def wait(self, seconds=60):
        return self.process.wait(timeout=seconds)

    def log(self):
        self.output.seek(0)
        return self.output.read()


@contextmanager
def service(*, command=(sys.executable, "-c", OURS), workers=1, **settings):
    "Start a service, wait until it is ready, and make sure that nothing of it is left"
    port = free_port()
    environ = environment(port, **{"drain": 0.3, "workers": workers} | settings)
    with TemporaryDirectory() as temporary, TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [part.format(port=port) for part in command],
            cwd=ROOT,
            env=environ | {"TMPDIR": temporary},
            stdout=log,
            stderr=log,
        )
        running = Service(process, port, workers, temporary, log)
        try:
            wait_until_ready(running)
            yield running
        finally:
            for one in running.everybody if process.poll() is None else []:
                one.kill()
            process.wait(timeout=60)


def wait_until_ready(running, seconds=120):
    last = time.monotonic() + seconds
    answering = set()
    while len(answering) < running.count:
        assert running.process.poll() is None, running.log()
        assert time.monotonic() < last, running.log()
        status, body = ask(running.port, "/pid")
        if status == 200:
            answering.add(body)
        else:
            time.sleep(0.02)


def request(path="/echo", body=b"", headers=(), method="POST"):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connect(port, timeout=10.0):
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def read_answer(connection):
    "(status, headers, body) of the next answer; status 0 when the connection ended before one was complete"
    received = b""
    try:
        while b"\r\n\r\n" not in received:
            if not (part := connection.recv(65536)):
                return 0, {}, received
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers["content-length"]):
            if not (part := connection.recv(65536)):
                return 0, headers, body
            body += part
    except ConnectionError:
        return 0, {}, received
    return int(first.split()[1]), headers, body


def send(port, *parts, pause=0.0, timeout=10.0, closes=False):
    "Send bytes on a connection of their own; (status, headers, body), once it was closed too if it `closes` then"
    with connect(port, timeout) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except ConnectionError:
            pass
        answer = read_answer(connection)
        if closes:
            with suppress(ConnectionError):
                assert connection.recv(1) == b""
        return answer


def ask(port, path="/echo", body=b"", **more):
    "One request on a connection of its own: (status, body), or what went wrong and None"
    try:
        with connect(port) as connection:
            connection.sendall(request(path, body, **more))
            status, _, text = read_answer(connection)
            return (status, text) if status else ("lost", None)
    except ConnectionRefusedError:
        return "refused", None
    except (ConnectionError, TimeoutError):
        return "lost", None


class Load(threading.Thread):
    "One client that asks until it is refused or told to stop"

    def __init__(self, port, keep_alive, path="/echo"):
        super().__init__(daemon=True)
        self.port, self.keep_alive, self.path = port, keep_alive, path
        self.seen = Counter()
        self.over = False

    def run(self):
        connection = None
        while not self.over and not self.seen["refused"]:
            try:
                connection = connection or connect(self.port)
                connection.sendall(request(self.path, b"x" * 300))
                status, headers, _ = read_answer(connection)
                self.seen[status or "lost"] += 1
                if not status or not self.keep_alive or headers.get("connection") == "close":
                    connection.close()
                    connection = None
            except ConnectionRefusedError:
                self.seen["refused"] += 1
            except (ConnectionError, TimeoutError):
                self.seen["lost"] += 1
                connection = None


@contextmanager
def load(port, clients=16, keep_alive=False, path="/echo"):
    "Many clients at once; what they saw, added up, when the block has ended"
    threads = [Load(port, keep_alive, path) for _ in range(clients)]
    for thread in threads:
        thread.start()
    seen = Counter()
    try:
        yield seen
    finally:
        for thread in threads:
            thread.over = True
            thread.join(timeout=60)
            seen.update(thread.seen)


def signal_all(processes, number=signal.SIGTERM):
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass


def wait_for(condition, seconds=30):
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.01)


def stays_below(running, most, attack):
    "Attack a service twice: the first time pays for what the allocator keeps, the second may cost no more than `most`"
    attack()
    before = running.rss()
    attack()
    wait_for(lambda: running.rss() - before < most, 10)
