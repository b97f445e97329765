"Bundles made from a pipeline at hand, and services of them that are asked without a port."

import asyncio
from dataclasses import dataclass, field

import sklearn

from mlserve.app import create_app
from mlserve.bundle import Lineage, Manifest, dump, write_bundle
from mlserve.contract import check_rows, to_json
from mlserve.features import CannotFold
from mlserve.fold import fold
from mlserve.lane import Lane
from mlserve.persist import dump_pipeline
from mlserve.plan import to_bytes
from mlserve.score import load_model, make_probe, sklearn_engine
from mlserve.serving import Service


def bundle_of(folder, pipeline, contract, rows, trusted=()):
    "What `train` would write for a fitted pipeline: with a plan if it can be folded"
    probe = make_probe(sklearn_engine(pipeline, contract), check_rows(contract, rows).rows)
    files = {"contract.json": dump(to_json(contract)), "probe.json": dump(probe)}
    files["pipeline.skops"] = dump_pipeline(pipeline, trusted=trusted)
    try:
        files["plan.bin"] = to_bytes(fold(pipeline, contract))
    except CannotFold:
        pass
    engine = "plan" if "plan.bin" in files else "sklearn"
    lineage = Lineage("tests:recipe", "5f2c", 600, 0, {}, 0, "0.1.0", {"scikit-learn": sklearn.__version__})
    return write_bundle(folder, Manifest("odd", "1.0.0", engine, lineage, {}, trusted=trusted), files)


class Awake:
    draining = False


@dataclass
class Seen:
    "Counts requests by remembering them"

    requests: list = field(default_factory=list)

    def observe(self, route, status, seconds, method="POST", rows=0):
        assert seconds >= 0
        self.requests.append((route, status, method, rows))

    def model(self, name, version, engine, code):
        self.answering = (name, version, engine)

    def text(self):
        return b""


@dataclass
class Served:
    "One model, behind the lane and without it"

    bundle: object

    def __post_init__(self):
        self.model, self.seen = load_model(self.bundle), Seen()
        self.service = Service(self.model, Awake(), self.seen)
        self.inside, self.handed_on = create_app(self.service), 0
        self.lane = Lane(self._counted, self.service)

    async def _counted(self, scope, receive, send):
        self.handed_on += 1
        await self.inside(scope, receive, send)

    def ask(self, body=b"", headers=(), method="POST", path="/predict", lane=True, pieces=None):
        "Status, headers and body of one request; what was counted of it is the last of `seen.requests`"
        return asyncio.run(ask(self.lane if lane else self.inside, body, headers, method, path, pieces))


async def ask(app, body, headers, method, path, pieces=None):
    "One request to an ASGI application, its body in pieces of the given sizes"
    parts = [body] if pieces is None else cut(body, pieces)
    waiting = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)} for number, part in enumerate(parts, 1)
    ]
    sent = []

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path}
    scope |= {"raw_path": path.encode(), "root_path": "", "query_string": b"", "scheme": "http"}
    scope |= {"headers": list(headers), "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5000)}
    await app(scope, receive, send)
    start, *rest = sent
    return start["status"], sorted(start["headers"]), b"".join(m.get("body", b"") for m in rest)


def cut(body, sizes):
    "A body in pieces of these sizes, the rest in the last"
    parts, at = [], 0
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    return [*parts, body[at:]]
