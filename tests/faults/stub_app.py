"A small application that stands in for the real one: `serving.py` starts services with it."

import asyncio
import os
import time
from pathlib import Path

from mlserve.errors import MlserveError
from mlserve.serve import application
from mlserve.settings import load_settings


class Teapot(MlserveError):
    "What `/teapot` raises"

    status = 418


async def slow(body):
    await asyncio.sleep(float(body))


async def held(body):
    "Until the file of this name is there"
    while not Path(body.decode()).exists():
        await asyncio.sleep(0.01)


async def boom(body):
    raise ValueError(f"{body!r} is not a row")


async def teapot(body):
    raise Teapot("this is a teapot \u2615; ask for tea")


async def pid(body):
    return 200, b"%d" % os.getpid()


async def large(body):
    return 200, b"x" * 20_000_000


ROUTES = {"/slow": slow, "/held": held, "/boom": boom, "/teapot": teapot, "/pid": pid, "/large": large}


async def live(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def half(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError


def create(settings, drain, metrics):
    metrics.model("stub", "1.0.0", "plan", "0.1.0")

    async def ready(body):
        return 503 if drain.draining else 200, b"{}"

    async def read_metrics(body):
        return 200, metrics.text()

    routes = ROUTES | {"/ready": ready, "/metrics": read_metrics}

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await live(receive, send)
        if scope["path"] == "/half":
            return await half(send)
        begun = time.perf_counter()
        body = (await receive())["body"]
        if scope["path"] == "/headers":
            status, text = 200, b" ".join(name for name, _ in scope["headers"])
        else:
            route = routes.get(scope["path"])
            status, text = (await route(body) if route else None) or (200, b"%d" % len(body))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})
        metrics.observe(scope["path"], status, time.perf_counter() - begun, scope["method"], rows=1)

    return app


def create_without_model(settings, drain, metrics):
    raise MlserveError("there is no model stub; `mlserve train` makes one")


def create_without_database(settings, drain, metrics):
    async def app(scope, receive, send):
        await receive()
        raise MlserveError("the database does not answer; set DATABASE_URL to one that does")

    return app


def create_late(settings, drain, metrics):
    "Until somebody else listens where this service is about to"
    folder = Path(os.environ["STUB_FOLDER"])
    (folder / "bound").touch()
    while not (folder / "taken").exists():
        time.sleep(0.01)
    return create(settings, drain, metrics)


def create_slowly(settings, drain, metrics):
    print("begun", flush=True)
    time.sleep(60)


def __getattr__(name):
    "`uvicorn stub_app:app` makes the application in its own process only"
    create_it = {"app": create, "without_database": create_without_database}.get(name)
    if create_it is None:
        raise AttributeError(name)
    return application(load_settings(), create_it)
