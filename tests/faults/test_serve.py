"Connections that do not behave, and processes that start, die and end."

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from statistics import median

import pytest
from serving import (
    OURS,
    ROOT,
    ask,
    connect,
    environment,
    is_alive,
    load,
    read_answer,
    request,
    send,
    service,
    signal_all,
    stays_below,
    wait_for,
)

from mlserve.drain import let_everybody_in, let_nobody_in, waiting
from mlserve.serve import HostUnknown, PortNotPermitted, PortUnknown, bind
from tests.ports import free_port

MIB = 1024 * 1024
UVICORN = [sys.executable, "-m", "uvicorn", "stub_app:app", "--port", "{port}", "--log-level", "warning"]
STARTS = {
    "ours": {},
    "ours, two workers": {"workers": 2},
    "uvicorn": {"command": UVICORN},
    "uvicorn, two workers": {"command": [*UVICORN, "--workers", "2"], "workers": 2},
}


def start_of(name, **more):
    return service(**STARTS[name], **more)


@pytest.fixture(scope="module")
def running():
    with service() as one:
        yield one


@pytest.fixture(scope="module")
def impatient():
    with service(header_timeout=0.5, body_timeout=1, keep_alive=4) as one:
        yield one


# Connections


def seconds_until_closed(port, *parts, pause=0.0):
    "What came, and when the connection was closed"
    begun = time.monotonic()
    with connect(port) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        received = b""
        with suppress(ConnectionError):
            while part := connection.recv(65536):
                received += part
        return received, time.monotonic() - begun


@pytest.mark.parametrize("parts", [[], [b"\r\n"], [b"\r\n"] * 30], ids=["nothing", "a line", "empty lines"])
def test_a_silent_connection_is_closed(impatient, parts):
    received, seconds = seconds_until_closed(impatient.port, *parts, pause=0.05)
    assert received == b"" and seconds > 0.4


def test_headers_that_drip_are_given_up(impatient):
    received, _ = seconds_until_closed(impatient.port, b"POST /echo HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 30, pause=0.05)
    assert received.startswith(b"HTTP/1.1 408 ") and b'"headers_too_slow"' in received


def test_a_second_request_is_given_as_long_as_the_first(impatient):
    with connect(impatient.port) as connection:
        begun = time.monotonic()
        connection.sendall(request() + b"POST /ec")
        assert read_answer(connection)[0] == 200
        assert read_answer(connection)[0] == 408
        assert time.monotonic() - begun > 0.3


def test_a_connection_may_rest_between_requests(impatient):
    with connect(impatient.port) as connection:
        connection.sendall(request())
        assert read_answer(connection)[0] == 200
        time.sleep(0.8)  # longer than headers may take
        begun = time.monotonic()
        connection.sendall(request())
        assert read_answer(connection)[0] == 200
        assert connection.recv(1) == b""  # but not for ever
        assert time.monotonic() - begun > 3


def open_slowly(stack, port):
    "500 connections that have not sent all of a request"
    for place in range(500):
        connection = stack.enter_context(connect(port))
        connection.sendall([b"", b"POST /echo HTTP/1.1\r\nHost: a", request(headers=["Content-Length: 9"])][place % 3])


def test_500_slow_connections_keep_nobody_waiting():
    with service(header_timeout=120, body_timeout=120) as patient, ExitStack() as stack:
        open_slowly(stack, patient.port)
        assert [ask(patient.port)[0] for _ in range(20)] == [200] * 20
        assert len(patient.root.net_connections()) > 500  # and none of them was sent away for it


def test_500_slow_connections_are_gone_in_time(impatient):
    with ExitStack() as stack:
        open_slowly(stack, impatient.port)
        assert ask(impatient.port)[0] == 200
        wait_for(lambda: len(impatient.root.net_connections()) == 1)  # the listening socket


HEADER_BOMBS = {
    "many": (431, b"GET /echo HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 10_000 + b"\r\n"),
    "one too many": (431, b"GET /echo HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 100 + b"\r\n"),
    "large": (431, b"GET /echo HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MIB + b"\r\n\r\n"),
    "a little too large": (431, b"GET /echo HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 32_768 + b"\r\n\r\n"),
    "a long name": (431, b"GET /echo HTTP/1.1\r\nHost: a\r\n" + b"x" * MIB + b": x\r\n\r\n"),
    "a long address": (414, b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a very long address": (414, b"GET /" + b"x" * MIB + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a long question": (414, b"GET /?" + b"x" * 8192 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
}


@pytest.mark.parametrize(("status", "raw"), HEADER_BOMBS.values(), ids=HEADER_BOMBS)
@pytest.mark.parametrize("size", [2000, 10_000_000])
def test_too_many_headers_are_refused(running, status, raw, size):
    parts = [raw[at : at + size] for at in range(0, len(raw), size)]
    found, headers, body = send(running.port, *parts, closes=True)
    assert found == status and headers["connection"] == "close"
    assert set(json.loads(body)) == {"error", "message", "fields"}


def test_as_many_headers_as_are_promised_are_read(running):
    headers = [f"X-{number}: {'x' * 300}" for number in range(98)]
    assert ask(running.port, headers=headers) == (200, b"0")
    assert ask(running.port, "/" + "x" * 8000) == (200, b"0")


def test_endless_headers_take_no_memory(running):
    def attack():
        with connect(running.port) as connection, suppress(ConnectionError):
            connection.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\nX: ")
            for _ in range(64):
                connection.sendall(b"x" * MIB)

    stays_below(running, 16 * MIB, attack)


@pytest.mark.parametrize("frill", [b"a: b\r\n" * 20_000, b"a: " + b"b" * 120_000], ids=["many", "long"])
def test_endless_headers_behind_a_body_take_no_memory(running, frill):
    def attack():
        with connect(running.port) as connection, suppress(ConnectionError):
            connection.sendall(request(headers=["Transfer-Encoding: chunked"]) + b"1\r\nx\r\n0\r\n")
            for _ in range(400):
                connection.sendall(frill)

    stays_below(running, 16 * MIB, attack)
    assert ask(running.port)[0] == 200


def test_headers_behind_a_body_are_not_taken_for_the_first(running):
    "Else a caller could slip a header past a proxy that checks them"
    with connect(running.port) as connection:
        connection.sendall(request("/headers", headers=["Transfer-Encoding: chunked"]))
        time.sleep(0.1)
        connection.sendall(b"1\r\nx\r\n0\r\nX-User: root\r\nHost: b\r\n\r\n")
        assert read_answer(connection)[2] == b"host transfer-encoding"


def test_what_comes_after_good_requests_does_not_spoil_their_answers(running):
    "An error must not be taken for the answer to the request before it"
    received, _ = seconds_until_closed(
        running.port, request("/slow", b"0.1") + request(body=b"xx") + b"GARBAGE\r\n\r\n"
    )
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"200"]


@pytest.mark.parametrize("size", [40_000, 99_990, 100_077, 250_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["stated", "chunked"])
def test_a_request_may_begin_in_the_piece_that_ends_another(running, size, chunked):
    body, headers = b"x" * 100_000, []
    if chunked:
        body, headers = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n", ["Transfer-Encoding: chunked"]
    raw = request(body=body, headers=headers) * 4
    with connect(running.port) as connection:
        for at in range(0, len(raw), size):
            connection.sendall(raw[at : at + size])
            time.sleep(0.02)
        received = b""
        while received.count(b"HTTP/1.1 ") < 4 or not received.endswith(b"0000"):
            part = connection.recv(65536)
            assert part, received
            received += part
    assert re.findall(rb"\r\n\r\n(\d+)", received) == [b"20000" if chunked else b"100000"] * 4


def test_requests_without_end_on_one_connection_are_stopped(running):
    def attack():
        with connect(running.port) as connection, suppress(ConnectionError):
            connection.sendall(request("/slow", b"0.5"))
            for _ in range(500):
                connection.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n" * 100)

    stays_below(running, 16 * MIB, attack)
    assert ask(running.port)[0] == 200


def test_another_protocol_is_not_spoken(running):
    "A client that offers HTTP/2, as Java's does with every first request, gets its answer in HTTP/1.1"
    headers = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"]
    assert send(running.port, request(body=b"abc", headers=headers))[::2] == (200, b"3")
    headers = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA"]
    assert ask(running.port, method="GET", headers=headers) == (200, b"0")
    assert send(running.port, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")[0] == 400
    assert "pgrade" not in running.log()


def test_an_answer_that_nobody_reads_is_given_up(impatient):
    with connect(impatient.port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request("/large"))
        wait_for(lambda: len(impatient.root.net_connections()) == 1)
    wait_for(lambda: b"mlserve_in_flight 1.0" in ask(impatient.port, "/metrics")[1])  # the one that asks


def test_idle_connections_cost_little():
    "Connections that have sent a request each; the first 500 also pay for what is bought once"
    with service(header_timeout=120) as running, ExitStack() as stack:

        def open_500():
            for connection in [stack.enter_context(connect(running.port)) for _ in range(500)]:
                connection.sendall(request())
                assert read_answer(connection)[0] == 200
            return running.rss()

        first = open_500()
        assert open_500() - first < 6.4 * MIB


# The end


def test_a_filter_keeps_connections_out_of_the_queue():
    if sys.platform != "linux":
        pytest.skip("Linux has filters on sockets")
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        place = listening.getsockname()
        stack.enter_context(socket.create_connection(place))
        let_nobody_in(listening)
        with pytest.raises(TimeoutError):
            socket.create_connection(place, timeout=0.1)
        assert still_waiting(listening) == 1
        let_everybody_in(listening)
        let_everybody_in(listening)  # nothing to take away
        stack.enter_context(socket.create_connection(place, timeout=10))
        assert still_waiting(listening) == 1


def still_waiting(listening):
    "How many connections are in the queue, where one may come in a moment after its client was told that it is there"
    taken = []
    wait_for(lambda: taken.extend(waiting(listening)) or taken)
    for one in taken:
        one.close()
    return len(taken)


def tell_one(running):
    running.process.terminate()


def tell_all(running):
    signal_all(running.everybody)


def tell_again_and_again(running):
    for _ in range(5):
        signal_all(running.everybody)
        time.sleep(0.04)


@pytest.mark.parametrize(
    ("start", "tell", "keep_alive"),
    [
        ("ours", tell_one, True),
        ("ours", tell_again_and_again, False),
        ("ours, two workers", tell_one, False),
        ("ours, two workers", tell_all, True),
        ("uvicorn", tell_all, False),
        ("uvicorn, two workers", tell_again_and_again, True),
    ],
)
def test_no_request_is_lost_when_it_stops(start, tell, keep_alive):
    "16 clients ask on until they are refused"
    with start_of(start) as running:
        everybody = running.everybody
        with load(running.port, keep_alive=keep_alive) as seen:
            time.sleep(0.2)
            tell(running)
            assert running.wait() == 0
    assert set(seen) == {200, "refused"} and seen["refused"] == 16
    wait_for(lambda: not any(map(is_alive, everybody)))


@pytest.mark.slow
@pytest.mark.parametrize("tell", [tell_one, tell_all])
def test_twenty_stops_under_load_lose_nothing(tell):
    answered = 0
    for number in range(20):
        with start_of("ours, two workers") as running, load(running.port, keep_alive=number % 2 == 0) as seen:
            time.sleep(0.2)
            tell(running)
            assert running.wait() == 0
        assert set(seen) == {200, "refused"} and seen["refused"] == 16
        answered += seen[200]
    assert answered > 20 * 100


def test_while_it_drains_it_is_not_ready_and_closes_connections():
    with service(drain=60) as running, connect(running.port) as idle:
        idle.sendall(request())
        status, headers, _ = read_answer(idle)
        assert status == 200 and "connection" not in headers
        assert ask(running.port, "/ready")[0] == 200
        running.process.terminate()
        wait_for(lambda: ask(running.port, "/ready")[0] == 503)
        idle.sendall(request())
        status, headers, _ = read_answer(idle)
        assert status == 200 and headers["connection"] == "close"


def test_a_request_under_way_is_finished():
    with service(drain=0.1) as running, connect(running.port) as connection:
        connection.sendall(request("/slow", b"1.2"))
        time.sleep(0.1)
        running.process.terminate()
        assert read_answer(connection)[0] == 200
        assert running.wait() == 0


@pytest.mark.parametrize("start", ["ours, two workers", "uvicorn"])
def test_a_request_that_takes_too_long_is_told_so(start):
    with start_of(start, drain=0.1, stop_timeout=0.3) as running, connect(running.port) as connection:
        connection.sendall(request("/slow", b"60"))
        with connect(running.port) as unfinished:
            unfinished.sendall(request(headers=["Content-Length: 9"]))
            time.sleep(0.2)
            running.process.terminate()
            for one in (connection, unfinished):
                status, headers, body = read_answer(one)
                assert (status, headers["connection"], json.loads(body)["error"]) == (503, "close", "stopping")
        assert running.wait() == 0
        assert "Traceback" not in running.log()


@pytest.mark.parametrize("start", ["ours", "ours, two workers"])
def test_a_second_interrupt_ends_it_at_once(start):
    with start_of(start, drain=600) as running:
        running.process.send_signal(signal.SIGINT)
        wait_for(lambda: ask(running.port, "/ready")[0] == 503)
        assert ask(running.port)[0] == 200
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 0  # long before it has drained
        assert "Traceback" not in running.log()


@pytest.mark.parametrize("workers", [1, 2])
def test_it_can_be_stopped_while_it_starts(workers):
    command = [sys.executable, "-c", OURS.replace(":create", ":create_slowly")]
    environ = environment(free_port(), workers=workers)
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=-1, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout.readline().startswith("begun")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.replace("begun", "").strip()) == (0, "")


EAGER = """
import os
from mlserve import workers
start = workers.start_worker
def start_and_stop(*arguments):
    worker = start(*arguments)
    os.kill(worker.process.pid, 15)
    return worker
workers.start_worker = start_and_stop
"""


def test_a_signal_that_comes_before_a_worker_has_begun_is_not_lost():
    command = [sys.executable, "-c", EAGER + OURS]
    environ = environment(free_port(), workers=2)
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")  # no worker came up; none left a traceback


# Workers


def test_a_killed_worker_is_missed_by_nobody_for_long():
    with service(workers=2) as running:
        with load(running.port) as seen:
            victim, other = running.workers
            victim.kill()
            assert first_to_answer(running) == {other.pid}  # nobody waits until there is a new one
            wait_for(lambda: {worker.pid for worker in running.workers} - {victim.pid, other.pid})
            wait_for(lambda: answering(running) - {other.pid})
        assert set(seen) <= {200, "lost"} and seen["lost"] <= 16
        tell_all(running)
        assert running.wait() == 0
        told = [json.loads(line) for line in running.log().splitlines() if "mlserve.workers" in line]
    assert [line["message"] for line in told] == [
        "a worker ended (signal 9); another takes its place",
        "all 2 workers are ready again",
    ]


@pytest.mark.slow
def test_ten_times_a_worker_is_killed_and_the_service_is_usually_back_within_a_tenth_of_a_second():
    answered, begun = [], []
    with service(workers=2) as running:
        for _ in range(10):
            victim, other = running.workers
            victim.kill()
            killed = time.monotonic()
            assert first_to_answer(running) == {other.pid}
            answered.append(time.monotonic() - killed)
            wait_for(lambda: {worker.pid for worker in running.workers} - {victim.pid, other.pid})  # noqa: B023
            begun.append(time.monotonic() - killed)
            new = {worker.pid for worker in running.workers} - {victim.pid, other.pid}
            wait_for(lambda: answering(running) & new)  # noqa: B023
    print(f"answers after at most {max(answered):.3f} s, replaced after at most {max(begun):.3f} s")
    assert median(answered) < 0.1


def first_to_answer(running):
    "The worker that answers first after another was killed, as a set"
    return next(filter(None, (answering(running) for _ in range(10_000))))


def answering(running):
    "The worker that answers, as a set, which is empty when the request was lost"
    status, text = ask(running.port, "/pid")
    return {int(text)} if status == 200 else set()


@pytest.mark.parametrize("start", ["ours, two workers", "uvicorn, two workers"])
def test_the_sums_hold_when_workers_die(start):
    with start_of(start) as running:
        assert [ask(running.port, body=b"x")[0] for _ in range(100)] == [200] * 100
        counted = 'mlserve_requests_total{method="POST",route="/echo",status="200"} 100.0'
        wait_for(lambda: counted in ask(running.port, "/metrics")[1].decode())  # an answer is sent, then counted
        victim, other = running.workers
        victim.kill()
        wait_for(lambda: answering(running) - {other.pid})
        told = ask(running.port, "/metrics")[1].decode()
        assert counted in told
        assert 'mlserve_request_seconds_count{route="/echo"} 100.0' in told
        assert 'mlserve_model_info{code="0.1.0",engine="plan",name="stub",version="1.0.0"} 1.0' in told
        wait_for(lambda: b"mlserve_in_flight 1.0" in ask(running.port, "/metrics")[1])  # the one that asks
        (folder,) = running.temporary.iterdir()
        assert len(list(folder.glob("*.tally"))) == 2  # a new worker goes on where a dead one ended
        running.process.terminate()
        assert running.wait() == 0
        assert not folder.exists()


@pytest.mark.parametrize(("start", "victims"), [("ours, two workers", 1), ("uvicorn, two workers", 2)])
def test_workers_that_are_told_to_stop_without_their_parent_are_replaced(start, victims):
    with start_of(start) as running:
        told = running.workers[:victims]
        gone = {worker.pid for worker in told}
        signal_all(told)
        wait_for(lambda: not any(map(is_alive, told)))
        wait_for(lambda: answering(running) - gone)


@pytest.mark.parametrize("start", ["ours, two workers", "uvicorn, two workers"])
def test_no_worker_outlives_its_parent(start):
    with start_of(start) as running:
        everybody = running.everybody
        running.process.kill()
        wait_for(lambda: not any(map(is_alive, everybody)))
        assert ask(running.port)[0] == "refused"


# The beginning


def start_fails(create="create", **settings):
    "Exit code, output and error output of a service that cannot start"
    command = [sys.executable, "-c", OURS.replace(":create", f":{create}")]
    port = settings.pop("port", None) or free_port()
    result = subprocess.run(
        command, cwd=ROOT, env=environment(port, **settings), capture_output=True, text=True, timeout=120
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken(workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, told = start_fails(port=port, workers=workers)
    assert (code, out) == (5, "")
    assert told == f"port {port} on 127.0.0.1 is taken; stop what listens there, or set MLSERVE_SERVE_PORT to another\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_in_the_last_moment(workers, tmp_path):
    "Two services may both have taken an address before either listens on it"
    port = free_port()
    with bind("127.0.0.1", port) as taken:
        command = [sys.executable, "-c", OURS.replace(":create", ":create_late")]
        environ = environment(port, workers=workers) | {"STUB_FOLDER": str(tmp_path)}
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=-1, stderr=-1, text=True) as process:
            try:
                wait_for((tmp_path / "bound").exists)
                taken.listen()
                (tmp_path / "taken").touch()
                out, told = process.communicate(timeout=60)
            finally:
                process.kill()
    assert (process.returncode, out) == (5, "")
    assert set(told.splitlines()) == {
        f"port {port} on 127.0.0.1 is taken; stop what listens there, or set MLSERVE_SERVE_PORT to another"
    }


def test_places_that_do_not_exist(monkeypatch):
    assert start_fails(host="192.0.2.1")[::2] == (5, f"{HostUnknown('192.0.2.1')}\n")
    for host in ("192.0.2.1", "", "my..host", "a" * 64):
        with pytest.raises(HostUnknown, match="set MLSERVE_SERVE_HOST to 127"):
            bind(host, 8000)
    with pytest.raises(PortUnknown, match="there is no port 70000"):
        bind("127.0.0.1", 70_000)

    def fail(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(HostUnknown):
        bind("nowhere.example", 8000)


def test_a_port_that_is_not_permitted():
    if os.geteuid() == 0:
        pytest.skip("root may listen anywhere")
    with pytest.raises(PortNotPermitted, match="this user may not listen on port 80 of"):
        bind("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("create", "workers", "says"),
    [
        ("create_without_model", 1, "there is no model stub; `mlserve train` makes one"),
        ("create_without_database", 1, "the database does not answer; set DATABASE_URL to one that does"),
        ("create_without_database", 2, "the database does not answer; set DATABASE_URL to one that does"),
    ],
)
def test_an_application_that_cannot_start_says_why(workers, create, says):
    code, out, told = start_fails(create, workers=workers)
    assert (code, out, set(told.splitlines())) == (1, "", {says})


def test_uvicorn_is_told_why_too():
    command = [part.format(port=free_port()).replace(":app", ":without_database") for part in UVICORN]
    result = subprocess.run(command, cwd=ROOT, env=environment(0), capture_output=True, text=True, timeout=120)
    assert result.returncode == 3 and "Traceback" not in result.stderr
    assert "the database does not answer; set DATABASE_URL to one that does" in result.stderr


def test_it_says_where_it_answers_and_nothing_else(running):
    ask(running.port, "/%0d%0aFORGED\x1b[31m")
    assert running.log() == f"mlserve answers on http://127.0.0.1:{running.port}\n"
