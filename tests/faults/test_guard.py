"What a client may send, and what it gets to see when something fails."

import asyncio
import json
import re
import socket
import time
from contextlib import ExitStack, suppress

import pytest
from fastapi import FastAPI
from serving import ask, connect, read_answer, request, send, service, stays_below, wait_for

from mlserve.drain import Drain
from mlserve.guard import HELD, Guard
from mlserve.settings import Serve

MIB = 1024 * 1024
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def running():
    with service() as one:
        yield one


@pytest.fixture(scope="module")
def impatient():
    with service(body_timeout=1) as one:
        yield one


def is_error(answer, status, kind):
    found, headers, body = answer
    told = json.loads(body)
    assert (found, told["error"]) == (status, kind)
    assert set(told) == {"error", "message", "fields"}
    assert body.isascii() and headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    return True


def in_chunks(body, size):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts_of(body, size)) + b"0\r\n\r\n"


def parts_of(body, size):
    return [body[at : at + size] for at in range(0, len(body), size)]


# Size


def test_a_body_of_the_largest_size_arrives(running):
    assert ask(running.port, body=b"x" * MIB) == (200, b"%d" % MIB)
    assert send(running.port, request(headers=[CHUNKED]) + in_chunks(b"x" * MIB, 5000))[2] == b"%d" % MIB


@pytest.mark.parametrize("size", [1, 17, 5000, 2 * MIB])
def test_a_body_in_chunks_arrives_whole(running, size):
    body = b"x" * 20_000
    assert send(running.port, request(headers=[CHUNKED]) + in_chunks(body, size))[2] == b"20000"


def test_a_body_that_says_it_is_too_large_is_refused_unread(running):
    answer = send(running.port, request(headers=[f"Content-Length: {MIB + 1}"]))
    assert is_error(answer, 413, "body_too_large") and answer[1]["connection"] == "close"


@pytest.mark.parametrize("framing", ["stated", "chunked"])
def test_64_megabytes_are_refused_without_being_kept(running, framing):
    body = [b"x" * MIB] * 64
    if framing == "stated":
        parts = [request(headers=[f"Content-Length: {64 * MIB}"]), *body]
    else:
        parts = [request(headers=[CHUNKED]), *[b"%x\r\n%s\r\n" % (MIB, part) for part in body], b"0\r\n\r\n"]

    def attack():
        assert is_error(send(running.port, *parts, closes=True), 413, "body_too_large")

    stays_below(running, 16 * MIB, attack)


def test_many_large_bodies_at_once_keep_nobody_else_waiting(running):
    def attack():
        with ExitStack() as stack:
            large = [stack.enter_context(connect(running.port)) for _ in range(8)]
            for connection in large:
                connection.sendall(request(headers=[CHUNKED]) + b"%x\r\n" % (64 * MIB))
            for _ in range(50):
                for connection in large:
                    with suppress(OSError):
                        connection.send(b"x" * 262_144, socket.MSG_DONTWAIT)
                assert ask(running.port)[0] == 200
            assert [read_answer(connection)[0] for connection in large] == [413] * 8

    stays_below(running, 16 * MIB, attack)  # 100 are answered meanwhile


def test_bodies_that_still_arrive_hold_only_so_much_memory():
    "Whoever comes when no more fit is told to come back, unless he has little; what was held is given back"

    async def half(guard, leave, size):
        left = [{"type": "http.request", "body": b"x" * size, "more_body": True}]
        sent = []

        async def receive():
            await asyncio.sleep(0)
            if left:
                return left.pop()
            await leave.wait()
            return {"type": "http.disconnect"}

        async def keep(message):
            sent.append(message)

        headers = [(b"host", b"a"), (b"content-length", b"100000")]
        await guard({"type": "http", "http_version": "1.1", "headers": headers}, receive, keep)
        return sent[0]["status"] if sent else None

    async def main():
        guard, leave = Guard(None, Serve(body_limit=100_000)), asyncio.Event()
        sizes = [90_000] * 100 + [1000] * 10
        tasks = [asyncio.create_task(half(guard, leave, size)) for size in sizes]
        for _ in range(100):  # turns of the loop, of which each needs a few
            await asyncio.sleep(0)
        held = guard.bodies.held
        leave.set()
        return held, await asyncio.gather(*tasks), guard.bodies.held

    held, statuses, left = asyncio.run(main())
    fit = HELD * 100_000 // 90_000
    assert held == fit * 90_000 + 10 * 1000 and left == 0
    assert statuses == [None] * fit + [503] * (100 - fit) + [None] * 10


# Time


def test_a_body_that_does_not_come_is_given_up(impatient):
    begun = time.monotonic()
    answer = send(impatient.port, request(headers=["Content-Length: 10"]) + b"12345")
    assert is_error(answer, 408, "body_too_slow") and answer[1]["connection"] == "close"
    assert time.monotonic() - begun > 0.9


def test_a_body_that_drips_is_given_up(impatient):
    answer = send(impatient.port, request(headers=["Content-Length: 1000"]), *[b"x"] * 40, pause=0.05)
    assert is_error(answer, 408, "body_too_slow")


def test_a_client_that_leaves_leaves_no_trace(running):
    before = running.log()
    for body in (b"", b"12345"):
        with connect(running.port) as connection:
            connection.sendall(request(headers=["Content-Length: 10"]) + body)
    assert ask(running.port)[0] == 200
    time.sleep(0.1)
    assert running.log() == before


def test_a_client_may_ask_before_it_sends(running):
    with connect(running.port) as connection:
        connection.sendall(request(headers=["Expect: 100-continue", "Content-Length: 5"]))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"12345")
        assert read_answer(connection)[2] == b"5"
    refused = send(running.port, request(headers=["Expect: 100-continue", f"Content-Length: {2 * MIB}"]))
    assert is_error(refused, 413, "body_too_large")


# Framing

HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
NEXT = b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n"
FRAMINGS = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + NEXT,
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n" + NEXT,
    "the same length twice": HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + NEXT,
    "a list of lengths": HEAD + b"Content-Length: 5, 5\r\n\r\n" + NEXT,
    "a length below zero": HEAD + b"Content-Length: -1\r\n\r\n" + NEXT,
    "a length with a sign": HEAD + b"Content-Length: +5\r\n\r\n" + NEXT,
    "a hexadecimal length": HEAD + b"Content-Length: 0x5\r\n\r\n" + NEXT,
    "a length with a blank": HEAD + b"Content-Length: 1 0\r\n\r\n" + NEXT,
    "an endless length": HEAD + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + NEXT,
    "a coding nobody knows": HEAD + b"Transfer-Encoding: cow\r\n\r\n" + NEXT,
    "chunks in disguise": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks of gzip": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks then identity": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + NEXT,
    "a blank before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "a folded line": HEAD + b"X: a\r\n b\r\n\r\n" + NEXT,
    "a null in a value": HEAD + b"X: a\x00b\r\n\r\n" + NEXT,
    "a bare carriage return": HEAD + b"X: a\rContent-Length: 5\r\n\r\n" + NEXT,
    "a chunk size below zero": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n" + NEXT,
    "a chunk size that is no number": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZ\r\nabc\r\n0\r\n\r\n" + NEXT,
    "a chunk longer than it says": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabcdef\r\n0\r\n\r\n" + NEXT,
    "an endless chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n" + NEXT,
    "no host": b"GET /pid HTTP/1.1\r\n\r\n" + NEXT,
    "two hosts": b"GET /pid HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + NEXT,
    "chunks in HTTP/1.0": b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "HTTP/2": b"GET /pid HTTP/2.0\r\nHost: a\r\n\r\n" + NEXT,
    "HTTP/9": b"GET /pid HTTP/9.9\r\nHost: a\r\n\r\n" + NEXT,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + NEXT,
    "no version": b"GET /pid\r\n\r\n" + NEXT,
    "a first line of its own": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NEXT,
}


@pytest.mark.parametrize("raw", FRAMINGS.values(), ids=FRAMINGS)
def test_a_request_that_can_be_read_in_two_ways_gets_one_answer(running, raw):
    with connect(running.port) as connection:
        connection.sendall(raw)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass
    assert len(re.findall(rb"HTTP/1\.1 \d", received)) == 1
    assert received.startswith(b"HTTP/1.1 400 ") and b"connection: close\r\n" in received
    assert set(json.loads(received.partition(b"\r\n\r\n")[2])) == {"error", "message", "fields"}


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "GZIP"])
def test_a_compressed_body_is_refused(running, coding):
    answer = send(running.port, request(body=b"12345", headers=[f"Content-Encoding: {coding}"]))
    assert is_error(answer, 415, "unsupported_encoding") and answer[1]["connection"] == "close"


def test_what_is_not_compressed_may_say_so(running):
    assert ask(running.port, body=b"12345", headers=["Content-Encoding: Identity"]) == (200, b"5")


def test_old_clients_are_served(running):
    assert send(running.port, b"GET /echo HTTP/1.0\r\n\r\n")[::2] == (200, b"0")
    assert send(running.port, b"POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")[::2] == (200, b"3")


def test_requests_sent_ahead_are_answered_in_order(running):
    sizes = list(range(40))
    with connect(running.port) as connection:
        connection.sendall(b"".join(request(body=b"x" * size) for size in sizes))
        received = b""
        while received.count(b"HTTP/1.1 ") < len(sizes) or not received.endswith(b"39"):
            received += connection.recv(65536)
    assert [int(size) for size in re.findall(rb"\r\n\r\n(\d+)", received)] == sizes


# Failures inside


def test_a_failure_is_told_by_number_only(running):
    answer = send(running.port, request("/boom", b"Ada Lovelace"))
    assert is_error(answer, 500, "internal_error")
    number = re.search(r"under (\w{16})$", json.loads(answer[2])["message"])[1]
    lines = [json.loads(line) for line in running.log().splitlines() if number in line]
    assert len(lines) == 1 and "ValueError at stub_app:" in lines[0]["message"]
    assert "Ada" not in running.log()


def test_an_error_of_ours_keeps_its_status(running):
    answer = send(running.port, request("/teapot"))
    assert is_error(answer, 418, "teapot") and "☕" in json.loads(answer[2])["message"]


def test_the_log_holds_failures_of_the_application_only(running):
    lines = [line for line in running.log().splitlines() if line.startswith("{")]
    assert {json.loads(line)["message"].split()[0] for line in lines} <= {"internal_error"}


async def asked(app, path="/"):
    "The messages that a guarded application answers a GET with"
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(message):
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
    }
    scope |= {"query_string": b"", "headers": [(b"host", b"a")], "client": None, "server": ("a", 80), "scheme": "http"}
    await Guard(app, Serve())(scope, receive, keep)
    return sent


def test_a_failure_in_fastapi_has_our_shape(caplog):
    app = FastAPI()

    @app.get("/")
    async def fail():
        raise KeyError("Ada")

    start, body = asyncio.run(asked(app))
    assert start["status"] == 500 and json.loads(body["body"])["error"] == "internal_error"
    assert len(caplog.records) == 1 and "Ada" not in caplog.text


def test_an_answer_of_500_that_was_meant_is_sent():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"as meant"})

    assert [m.get("status", m.get("body")) for m in asyncio.run(asked(app))] == [500, b"as meant"]


def test_a_failure_after_the_answer_began_adds_nothing(caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    assert [m.get("status", m.get("body")) for m in asyncio.run(asked(app))] == [200, b"half"]
    assert "internal_error" in caplog.text


def test_a_client_that_reads_half_an_answer_sees_that_it_is_half(running):
    status, _, body = send(running.port, request("/half"), closes=True)
    assert (status, body) == (0, b"half")


def test_the_log_shows_where_a_chain_of_failures_began(caplog):
    async def app(scope, receive, send):
        try:
            {}["Ada"]
        except KeyError as error:
            raise RuntimeError("Ada") from error

    asyncio.run(asked(app))
    assert re.search(r"RuntimeError at .* app < .*; because of KeyError at .* app$", caplog.messages[0])


# Too much


def test_more_requests_than_it_takes_are_told_to_come_back(tmp_path):
    file = tmp_path / "go on"
    with service(concurrency=3) as running, ExitStack() as stack:
        busy = [stack.enter_context(connect(running.port)) for _ in range(3)]
        for connection in busy:
            connection.sendall(request("/held", bytes(file)))
        wait_for(lambda: ask(running.port)[0] == 503)  # all three are inside
        with connect(running.port) as connection:
            for _ in range(2):  # the connection is kept
                connection.sendall(request())
                answer = read_answer(connection)
                assert is_error(answer, 503, "too_busy") and answer[1]["retry-after"] == "1"
            file.touch()
            assert [read_answer(one)[0] for one in busy] == [200] * 3
            connection.sendall(request())
            assert read_answer(connection)[0] == 200


def test_a_lull_after_the_rush():
    "Requests that were refused, failed or left do not take a place for ever"

    async def app(scope, receive, send):
        raise asyncio.CancelledError

    async def main():
        guard = Guard(app, Serve(concurrency=1), Drain())

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        statuses = []

        async def keep(message):
            statuses.append(message.get("status"))

        for _ in range(3):
            await guard({"type": "http", "http_version": "1.1", "headers": [(b"host", b"a")]}, receive, keep)
        return guard.under_way[0], statuses

    assert asyncio.run(main()) == (0, [503, None] * 3)
