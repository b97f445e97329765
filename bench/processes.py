"Start a server on its core, ask it, load it, and read from /proc what it costs."

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PATIENCE = 90  # Seconds a server gets until its first answer


class Failed(Exception):
    "A server that does not do what it should; the message says why"


def cores():
    "One core for the server, another for the load, if there are two"
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # of prctl: which signal a process gets when its parent ends


def _favoured(core):
    "What a child does before it becomes its program: take its core, and go before others if that is allowed"

    def prepare():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # however the benchmark ends, no server outlives it
        os.sched_setaffinity(0, {core})
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -10)
            Path("/proc/self/autogroup").write_text("-10")  # else the niceness counts only among its own session
        except OSError:
            pass  # only root may

    return prepare


def _favour(pids):
    "The same for processes that have left their parent's session"
    for pid in pids:
        try:
            Path(f"/proc/{pid}/autogroup").write_text("-10")
        except OSError:
            pass


def _stat(pid):
    "Fields of /proc/PID/stat from the third on; None if it has ended"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def tree(root):
    "A process and all below it"
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(entry.name)):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(pids):
    "User and system time of processes, and of their children that have ended"
    stats = filter(None, map(_stat, pids))
    return sum(int(ticks) for stat in stats for ticks in stat[11:15]) / TICK


def memory_mb(pids):
    "Resident memory, summed over processes"
    stats = filter(None, map(_stat, pids))
    return sum(int(stat[21]) for stat in stats) * PAGE / 1e6


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Running:
    "A server that runs"

    process: subprocess.Popen
    port: int
    log: Path

    def pids(self):
        return tree(self.process.pid)

    def ask(self, method, path, body=None, connection=None):
        "Status and decoded JSON of one request"
        used = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        used.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = used.getresponse()
        content = response.read()
        if connection is None:
            used.close()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, None

    def last_words(self):
        "The last line of its log: usually why it ended"
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "it wrote nothing"

    def stop(self):
        "End it and all it started"
        pids = self.pids()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        for pid in pids[1:]:
            if (stat := _stat(pid)) and stat[0] != "Z":
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass


def start(command, folder, environment, log):
    "Start a server; `{port}` in its command or environment becomes a free port"
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLSERVE_", "COVERAGE_", "COV_"))}
    kept |= {name: str(value).replace("{port}", str(port)) for name, value in environment.items()}
    for name in ("PORT", "WEB_CONCURRENCY", "PYTHONDONTWRITEBYTECODE"):
        kept.pop(name, None)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            cwd=folder,
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_favoured(cores()[0]),
        )
    return Running(process, port, log)


def first_answer(running, path, body):
    "Seconds and CPU seconds from the start to the first answer"
    begin = time.perf_counter()
    while time.perf_counter() - begin < PATIENCE:
        if running.process.poll() is not None:
            raise Failed(running.last_words())
        try:
            status, _ = running.ask("POST", path, body)
        except (OSError, http.client.HTTPException):
            status = 0
        if status == 200:
            return time.perf_counter() - begin, cpu_seconds(running.pids())
        if status >= 400 and status != 503:
            raise Failed(f"it answers {status} to a good row")
        time.sleep(0.002)
    raise Failed(f"it gave no answer in {PATIENCE} seconds: {running.last_words()}")


def settle(running, most=10.0):
    "Wait until a server has done what it was still asked to do"
    end = time.perf_counter() + most
    before = cpu_seconds(running.pids())
    while time.perf_counter() < end:
        time.sleep(0.1)
        after = cpu_seconds(running.pids())
        if after - before <= 0.01:
            return
        before = after


def load(running, path, bodies, clients, seconds):
    "Post the lines of a file from so many clients for so many seconds, and say what came of it"
    _favour(running.pids())
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", str(HERE / "post.lua")]
    command += [f"http://127.0.0.1:{running.port}{path}", "--", str(bodies)]
    before = cpu_seconds(running.pids())
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        start_new_session=True,
        preexec_fn=_favoured(cores()[1]),
    )
    settle(running)  # requests that wrk no longer waits for are worked on too; so their time and number both count
    spent = cpu_seconds(running.pids()) - before
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise Failed(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout).strip()[:200]}")
    counted = json.loads(lines[-1])
    if counted["refused"] or counted["broken"]:
        raise Failed(f"{counted['refused']} answers were errors and {counted['broken']} requests broke off under load")
    if not counted["requests"]:
        raise Failed(f"it answered nothing in {seconds} seconds to {clients} clients")
    return {
        "clients": clients,
        "requests": counted["requests"],
        "seconds": round(counted["seconds"], 2),
        "rps": counted["requests"] / counted["seconds"],
        "p50_ms": counted["p50_ms"],
        "p99_ms": counted["p99_ms"],
        "cpu_ms": spent / max(counted["sent"], counted["requests"]) * 1e3,
        "rss_mb": memory_mb(running.pids()),
    }
