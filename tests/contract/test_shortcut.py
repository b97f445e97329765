"""The same bytes over a connection that takes the shortcut and over one that does not: what comes back must be the same.

All that is sent back is compared, status line and headers too, the answers' ids apart; and what was counted.
"""

import asyncio
import json
import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import Server, ServerState

from mlserve.access import Access, Door
from mlserve.drain import GRACE, see_in_the_last
from mlserve.guard import Guard
from mlserve.protocol import Protocol
from mlserve.rate import Rate
from mlserve.settings import Serve
from mlserve.shortcut import Direct
from tests.contract.test_lane_catalogue import BODIES, ROW, make, without_id

GOOD = json.dumps(ROW).encode()
SERVER = [(b"server", b"uvicorn"), (b"date", b"Mon, 23 Nov 2026 12:00:00 GMT")]
KEY = "7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a"  # SHA-256 of abcdefg


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from sklearn.ensemble import HistGradientBoostingClassifier

    boosting = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    return make(tmp_path_factory.mktemp("shortcut") / "odd", "multiclass", boosting)


class Ear(asyncio.Transport):
    "Keeps what was written"

    def __init__(self):
        super().__init__()
        self.heard, self.closing = b"", False

    def write(self, data):
        self.heard += b"" if self.closing else data

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    def can_write_eof(self):
        return True

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self):
        "Whoever sends here waits for no answer"

    abort = write_eof = close
    resume_reading = pause_reading


async def converse(kind, guard, pieces):
    "All that a connection says to these pieces, and whether it ends then"
    config = Config(guard, log_config=None, proxy_headers=False)
    state = ServerState()
    state.default_headers = list(SERVER)
    more = {"shortcut": guard.shortcut, "heads": {}} if kind is Direct else {}
    protocol = kind(config, state, {}, asyncio.get_running_loop(), serve=guard.serve, **more)
    protocol.access_log = False
    ear = Ear()
    protocol.connection_made(ear)
    for piece in pieces:
        if not ear.closing:
            protocol.data_received(piece)
        await turn(protocol)
    told = ear.heard, ear.closing
    protocol.connection_lost(None)
    await turn(protocol)
    return told


async def turn(protocol):
    "Let the event loop do what can be done now"
    for _ in range(300):
        if protocol.tasks:
            await asyncio.sleep(0)


def both(served, *pieces, app=None, **serve):
    "What is said, if both kinds of connection say it; and how often it was the shortcut"
    short, counts = [], []
    for kind in (Direct, Protocol):
        guard = Guard(app or served.lane, Serve(**serve))
        taken = 0

        def shortcut(url, headers, way=guard.shortcut):
            at_once = way(url, headers)

            def counted(body):
                nonlocal taken
                made = at_once(body)
                taken += made is not None
                return made

            return None if at_once is None else counted

        guard.shortcut = shortcut
        before = len(served.seen.requests)
        heard, closing = asyncio.run(converse(kind, guard, pieces))
        counts.append(served.seen.requests[before:])
        ids = re.findall(rb"\b[0-9a-f]{32}\b", heard)
        assert len(ids) == len(set(ids))
        short.append((without_id(heard), closing, taken))
    (heard, closing, taken), (other, other_closing, none) = short
    assert (heard, closing, counts[0]) == (other, other_closing, counts[1]) and none == 0
    return heard, taken


def request(body, *lines, first=b"POST /predict HTTP/1.1", kind=b"Content-Type: application/json", length=None):
    framing = [b"Host: localhost", kind, b"Content-Length: %d" % (len(body) if length is None else length)]
    return b"\r\n".join([first, *framing, *lines, b"", body])


@pytest.mark.parametrize("name", [*ROW, "shapes"])
def test_every_body_of_the_catalogue(served, name):
    bodies = [b for k, b in BODIES.items() if k.startswith(f"{name} = ") or (name == "shapes" and " = " not in k)]
    heard, taken = both(served, *[request(part) for body in bodies for part in (body, GOOD)])
    assert heard.count(b"HTTP/1.1 ") == 2 * len(bodies)
    assert len(bodies) < taken < 2 * len(bodies)  # the good ones between, and some of these


@pytest.mark.parametrize("line", [
    b"Connection: keep-alive", b"Accept: */*", b"Accept: application/json", b"User-Agent: curl", b"Cookie: a=b",
    b"Authorization: Bearer abc", b"Origin: https://example.org", b"X: \xff", b"Content-Encoding: identity",
    b"X-Forwarded-For: 1.2.3.4", b"Keep-Alive: 5", b"Connection: Upgrade\r\nUpgrade: h2c",
], ids=repr)  # fmt: skip
def test_headers_that_change_nothing(served, line):
    assert both(served, request(GOOD, line), request(GOOD, line))[1] == 2


@pytest.mark.parametrize("line", [
    b"Connection: close", b"Accept: text/csv", b"Content-Encoding: gzip",
    b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Host: other", b"Content-Length: 3",
    b"Content-Type: text/plain", b"Content-Type: application/json", b"a: b\r\n" * 101 + b"a: b",
    b"a: " + b"b" * 40_000, b" folded", b"no colon", b"a\x00b: c",
], ids=lambda line: repr(line[:30]))  # fmt: skip
def test_headers_that_lead_the_whole_way(served, line):
    once = both(served, request(GOOD, line))
    twice = both(served, request(GOOD), request(GOOD, line), request(GOOD, line))
    assert once[1] == 0 or line == b"Content-Type: application/json"
    assert twice[1] in (1, 3)


@pytest.mark.parametrize("first", [
    b"POST /predict?x=1 HTTP/1.1", b"POST /predict HTTP/1.0", b"PUT /predict HTTP/1.1", b"GET /model HTTP/1.1",
    b"POST http://localhost/predict HTTP/1.1", b"POST /%70redict HTTP/1.1", b"POST //predict HTTP/1.1",
    b"POST /predict HTTP/2.0", b"POST /predict", b"post /predict HTTP/1.1", b"CONNECT /predict HTTP/1.1",
], ids=repr)  # fmt: skip
def test_first_lines_that_lead_the_whole_way(served, first):
    assert both(served, request(GOOD, first=first))[1] == 0
    assert both(served, request(GOOD), request(GOOD, first=first))[1] == 1


@pytest.mark.parametrize("length", [0, 1, len(GOOD) - 1, len(GOOD) + 1, 10**9, 10**30], ids=str)
def test_a_length_that_is_not_the_bodys(served, length):
    both(served, request(GOOD, length=length))
    both(served, request(GOOD), request(GOOD, length=length), request(GOOD))


@given(st.lists(st.integers(0, 3 * len(request(GOOD))), max_size=5), st.sampled_from([GOOD, b"{}", b"[]", b"{"]))
@example([], GOOD)
def test_however_the_bytes_are_cut(served, cuts, second):
    stream = request(GOOD) + request(second) + request(GOOD)
    at = [0, *sorted(cuts), len(stream)]
    heard, _ = both(served, *[stream[a:b] for a, b in pairwise(at) if b > a])
    assert heard.count(b"HTTP/1.1 ") == 3


@given(st.integers(0, len(request(GOOD)) - 1), st.integers(0, 3), st.binary(max_size=3))
def test_any_damage(served, at, gone, put):
    good = request(GOOD)
    both(served, good, good[:at] + put + good[at + gone :], good)


def test_a_body_is_never_read_as_a_request(served):
    inner = request(GOOD)
    outer = request(inner + inner, first=b"POST /nowhere HTTP/1.1")
    head = len(outer) - 2 * len(inner)
    for cuts in ([head], [head, head + len(inner)], [head - 1], [head + 1]):
        at = [0, *cuts, len(outer)]
        heard, taken = both(served, inner, *[outer[a:b] for a, b in pairwise(at)], inner)
        assert heard.count(b"HTTP/1.1 ") == 3 and taken == 2


def test_limits_hold(served):
    assert both(served, request(GOOD), request(GOOD), body_limit=len(GOOD) - 1)[1] == 0
    assert both(served, request(GOOD), request(GOOD), body_limit=len(GOOD))[1] == 2
    assert b"503" in both(served, request(GOOD), concurrency=0)[0][:20]


def test_a_door_is_not_passed_by(served):
    access = Access({KEY: frozenset({"predict"})})
    locked = Door(served.lane, access, None, served.seen)
    right, wrong = b"Authorization: Bearer abcdefg", b"Authorization: Bearer abcdefh"
    assert both(served, request(GOOD, right), request(GOOD, right), app=locked)[1] == 2
    for lines in ([], [wrong], [b"X-API-Key: abc"]):
        heard, taken = both(served, request(GOOD, right), request(GOOD, *lines), app=locked)
        assert taken == 1 and b"HTTP/1.1 401" in heard
    other = Door(served.lane, Access({KEY: frozenset({"feedback"})}), None, served.seen)
    assert b"HTTP/1.1 403" in both(served, request(GOOD, right), app=other)[0]
    counted = Door(served.lane, Access(), Rate(rate=1000, burst=1000), served.seen)
    assert both(served, request(GOOD), app=counted)[1] == 0


def test_a_service_that_stops_says_so(served):
    guard = Guard(served.lane, Serve())
    connection = lambda: asyncio.run(converse(Direct, guard, [request(GOOD)] * 2))  # noqa: E731
    assert connection()[0].count(b"connection: close") == 0
    guard.drain.draining = True
    heard, closing = connection()
    assert heard.count(b"HTTP/1.1 200") == 1 and heard.count(b"connection: close") == 1 and closing


@pytest.mark.parametrize(("sent", "waits"), [(b"", True), (request(GOOD), False)], ids=["silent", "answered"])
def test_the_end_waits_only_for_who_has_sent_nothing(served, sent, waits):
    guard = Guard(served.lane, Serve())

    async def ending():
        loop, server = asyncio.get_running_loop(), Server(Config(guard, log_config=None, proxy_headers=False))
        server.servers = []
        more = {"serve": guard.serve, "shortcut": guard.shortcut, "heads": {}}
        protocol = Direct(server.config, server.server_state, {}, loop, **more)
        protocol.access_log = False
        protocol.connection_made(Ear())
        if sent:
            protocol.data_received(sent)
        begun = loop.time()
        await see_in_the_last(server, last=False)
        taken = loop.time() - begun
        protocol.connection_lost(None)
        return taken

    assert (asyncio.run(ending()) >= GRACE) == waits


def test_a_new_model_answers_over_an_open_connection(served, tmp_path):
    from sklearn.linear_model import LinearRegression

    other, before = make(tmp_path / "odd", "regression", LinearRegression()), served.service.model
    guard = Guard(served.lane, Serve())

    async def swapped():
        config, state = Config(guard, log_config=None, proxy_headers=False), ServerState()
        loop = asyncio.get_running_loop()
        protocol = Direct(config, state, {}, loop, serve=guard.serve, shortcut=guard.shortcut, heads={})
        protocol.access_log = False
        protocol.connection_made(ear := Ear())
        for model in (before, before, other.model, before):
            served.service.model = model
            protocol.data_received(request(GOOD))
        protocol.connection_lost(None)
        return ear.heard.split(b"HTTP/1.1 ")[1:]

    try:
        answers = asyncio.run(swapped())
    finally:
        served.service.model = before
    assert [b'"value"' in answer for answer in answers] == [False, False, True, False]


async def overtaking(second):
    "What is said to a HEAD and to what the loop finds right after it, before an answer that is held back is flushed"

    async def app(scope, receive, send):
        start = {"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"3")]}
        await send(start)
        await send({"type": "http.response.body", "body": b"app"})

    loop, config = asyncio.get_running_loop(), Config(app, log_config=None, proxy_headers=False)
    more = {"shortcut": lambda url, headers: lambda body: b"content-length: 4\r\n\r\nfour", "heads": {}}
    protocol = Direct(config, ServerState(), {}, loop, serve=Serve(), **more)
    protocol.access_log = False
    protocol.connection_made(ear := Ear())
    protocol.data_received(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    loop.call_soon(second, protocol)
    await turn(protocol)
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", ear.heard)]


@pytest.mark.parametrize(("second", "statuses"), [
    (lambda protocol: protocol.data_received(request(GOOD)), [404, 200]),
    (lambda protocol: protocol.data_received(b"\x16\x03\x01\r\n"), [404, 400]),
    (lambda protocol: protocol.shutdown(), [404]),
], ids=["at once", "refused", "stopped"])  # fmt: skip
def test_no_answer_overtakes_the_one_before(second, statuses):
    assert asyncio.run(overtaking(second)) == statuses


def test_a_shortcut_that_fails_leaves_the_request_to_the_whole_way(served):
    boom = False

    async def failing(scope, receive, send):
        if boom:
            raise ValueError("a bug")
        await served.lane(scope, receive, send)

    def shortcut(url, headers):
        at_once = served.lane.shortcut(url, headers)
        return at_once and (lambda body: 1 / 0 if boom else at_once(body))

    guard = Guard(failing, Serve())
    guard.behind = shortcut

    async def told(known):
        nonlocal boom
        config, loop = Config(guard, log_config=None, proxy_headers=False), asyncio.get_running_loop()
        protocol = Direct(config, ServerState(), {}, loop, serve=guard.serve, shortcut=guard.shortcut, heads={})
        protocol.access_log = False
        protocol.connection_made(ear := Ear())
        for fails in [False] * known + [True]:
            boom = fails
            protocol.data_received(request(GOOD))
            await turn(protocol)
        protocol.connection_lost(None)
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", ear.heard)]

    assert asyncio.run(told(0)) == [500]
    assert asyncio.run(told(1)) == [200, 500]
