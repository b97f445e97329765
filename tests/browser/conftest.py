"""A real browser against a real server, both on this machine."""

import shutil
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn

from mlserve.app import create_app
from mlserve.bundle import Lineage, Manifest, dump, write_bundle
from mlserve.contract import to_json
from mlserve.pages import add_pages
from mlserve.score import Model
from mlserve.serving import Service

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--disable-quic --no-first-run"
).split()


class Quiet:
    "A process that is not stopping and counts nothing"

    draining = False

    def observe(self, route, status, seconds, method="POST", rows=0):
        pass

    def model(self, name, version, engine, code):
        pass

    def text(self):
        return b""


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    def make(name, contract, score, files=None, metrics=None, version="1.0.0"):
        lineage = Lineage("example:recipe", "5f2c9a10", 1200, 300, {}, 0, "0.1.0", {})
        content = {"contract.json": dump(to_json(contract)), **(files or {})}
        manifest = Manifest(name, version, "sklearn", lineage, metrics or {})
        return Model(write_bundle(tmp_path_factory.mktemp("models") / name, manifest, content), score)

    return make


@contextmanager
def serving(model):
    "The service of a model, on a free port; gives its address and what its routes share"
    service = Service(model, Quiet(), Quiet())
    app = create_app(service)
    add_pages(app, service)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        until = time.monotonic() + 60
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", service
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="session")
def serve():
    "Serves models until the end, each once; gives the address and what the routes share"
    running = {}
    with ExitStack() as stack:

        def served(model):
            if model.name not in running:
                running[model.name] = stack.enter_context(serving(model))
            return running[model.name]

        yield served


@pytest.fixture(scope="session")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on the path")
    api.expect.set_options(timeout=60_000)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        yield context
        browser.close()


@dataclass
class Heard:
    "What a page did that a person does not see"

    requests: list[str] = field(default_factory=list)  # Addresses it asked for
    complaints: list[str] = field(default_factory=list)  # Errors and warnings on its console
    expected: tuple[str, ...] = ()  # Words of complaints that a test provokes


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def page(chromium, heard):
    "A new page; at the end nothing foreign was asked for, and nothing was complained about"
    page = chromium.new_page()
    page.on("request", lambda request: heard.requests.append(request.url))
    page.on("console", lambda message: message.type in ("error", "warning") and heard.complaints.append(message.text))
    page.on("pageerror", lambda error: heard.complaints.append(str(error)))
    yield page
    origin = "/".join(page.url.split("/")[:3])
    page.close()
    assert heard.requests and [u for u in heard.requests if not u.startswith((f"{origin}/", "data:", "blob:"))] == []
    assert [c for c in heard.complaints if not any(word in c for word in heard.expected)] == []
