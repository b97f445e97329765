"What is answered without a framework, and when one is loaded"

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from starlette.routing import compile_path

from mlserve.access import NEEDED, pattern_of
from mlserve.bundle import find_bundle, read_bundle
from mlserve.contract import example
from mlserve.later import Later
from mlserve.score import load_model
from mlserve.serving import WATCHED
from tests.contract.test_lane_catalogue import make
from tests.served import ask

# asks a whole service, started as a server starts it, in a process that has loaded nothing else
ASKING = """
import asyncio, json, sys
from mlserve.service import asgi
from mlserve.settings import load_settings

def loaded():
    return sorted({"fastapi", "starlette.routing", "anyio", "pydantic", "rich"} & set(sys.modules))

async def asked(app, method, path, body=b"", type_=b"application/json"):
    sent, left = [], [{"type": "http.request", "body": body, "more_body": False}]
    async def receive():
        return left.pop()
    async def send(message):
        sent.append(message)
    headers = [(b"host", b"127.0.0.1"), (b"content-type", type_), (b"content-length", b"%d" % len(body))]
    root = sys.argv[2]
    scope = {"type": "http", "http_version": "1.1", "method": method, "path": root + path, "raw_path": path.encode()}
    scope |= {"root_path": root, "query_string": b"", "scheme": "http", "headers": headers, "client": ("127.0.0.1", 5000)}
    await app(scope, receive, send)
    return sent[0]["status"]

async def main():
    app, told, heard = asgi(load_settings()), asyncio.Queue(), asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, told.get, heard.put))
    await told.put({"type": "lifespan.startup"})
    assert (await heard.get())["type"] == "lifespan.startup.complete"
    row = json.dumps(json.loads(sys.argv[1])).encode()
    for method, path, body in (("POST", "/predict", row), ("GET", "/health/ready", b""), ("GET", "/metrics", b"")):
        print(path, await asked(app, method, path, body), *loaded())
    print(*await asyncio.gather(*(asked(app, "GET", path) for path in ("/model", "/nowhere", "/openapi.json"))), *loaded())
    await told.put({"type": "lifespan.shutdown"})
    await life

asyncio.run(main())
"""


@pytest.mark.parametrize("root", ["", "/api"])
def test_the_framework_is_loaded_when_only_it_can_answer(projects, root):
    project = projects["census"]
    row = example(load_model(read_bundle(find_bundle(project / "models", "census"))).contract)
    done = subprocess.run(
        [sys.executable, "-c", ASKING, json.dumps(row), root], cwd=project, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "/predict 200",
        "/health/ready 200",
        "/metrics 200",
        "200 404 200 anyio fastapi pydantic starlette.routing",
    ]


def test_the_command_to_serve_loads_no_command_line(projects):
    code = (
        "import atexit, sys; from mlserve.command import main; sys.argv[1:] = ['serve', '--port', '70000'];"
        "atexit.register(lambda: print(*sorted({'mlserve.service', 'pydantic', 'rich', 'typer'} & set(sys.modules))));"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=projects["wine"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode and done.stderr.startswith("mlserve: ") and "70000" in done.stderr
    assert done.stdout.splitlines()[-1] == "mlserve.service"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    boosting = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    return make(tmp_path_factory.mktemp("later") / "odd", "multiclass", boosting)


@pytest.mark.parametrize("path", WATCHED)
@pytest.mark.parametrize("draining", [False, True])
def test_what_is_watched_is_told_as_the_application_tells_it(served, path, draining):
    later = Later(served.service, lambda: served.inside)
    served.service.drain = SimpleNamespace(draining=draining)
    status, headers, body = asyncio.run(ask(later, b"", (), "GET", path))
    counted = served.seen.requests[-1]
    assert later.made is None
    whole = asyncio.run(ask(served.inside, b"", (), "GET", path))
    assert (status, body) == (whole[0], whole[2])
    assert dict(whole[1]).items() <= dict(headers).items()
    assert counted == served.seen.requests[-1] == (path, status, "GET", 0)


@pytest.mark.parametrize("path", [*WATCHED, "/model", "/predict", "/nowhere"])
def test_head_is_answered_as_get_is_without_its_body(served, path):
    later = Later(served.service, lambda: served.inside)
    status, headers, body = asyncio.run(ask(later, b"", (), "GET", path))
    assert asyncio.run(ask(later, b"", (), "HEAD", path)) == (status, headers, b"")
    assert served.seen.requests[-1] == served.seen.requests[-2]
    assert dict(headers)[b"content-length"] == b"%d" % len(body)


@pytest.mark.parametrize(("method", "path"), [("PUT", "/health/live"), ("POST", "/metrics"), ("GET", "/health/live/")])
def test_what_is_asked_otherwise_goes_to_the_application(served, method, path):
    later = Later(served.service, lambda: served.inside)
    assert asyncio.run(ask(later, b"", (), method, path)) == asyncio.run(ask(served.inside, b"", (), method, path))
    assert later.made is served.inside


def test_an_application_that_could_not_be_made_is_made_anew(served):
    made = [OSError("too many open files"), served.inside]

    def make_app():
        one = made.pop(0)
        if isinstance(one, OSError):
            raise one
        return one

    later = Later(served.service, make_app)
    with pytest.raises(OSError, match="too many"):
        asyncio.run(ask(later, b"", (), "GET", "/model"))
    assert asyncio.run(ask(later, b"", (), "GET", "/model"))[0] == 200


def test_a_part_that_cannot_begin_ends_the_start():
    def broken():
        raise OSError("no such disk")

    sent = []

    async def live():
        told = asyncio.Queue()
        told.put_nowait({"type": "lifespan.startup"})

        async def send(message):
            sent.append(message)

        await Later(SimpleNamespace(during=[broken]), lambda: None)({"type": "lifespan"}, told.get, send)

    with pytest.raises(OSError, match="no such disk"):
        asyncio.run(live())
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]


@pytest.mark.parametrize("route", NEEDED)
def test_addresses_are_matched_as_the_framework_matches_them(route):
    theirs, ours = compile_path(route)[0], pattern_of(route)
    paths = {r.replace("{model}", name) for r in NEEDED for name in ("census", "a b", "a:b", "x.y", "")}
    paths |= {path + end for path in paths for end in ("/", "\n", "x")} | {path.upper() for path in paths}
    assert [path for path in paths if bool(theirs.match(path)) != bool(ours.match(path))] == []
