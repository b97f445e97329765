"Measure how fast mlserve serves one model, beside a plain FastAPI service, the limits of the framework, and its peers."

import argparse
import http.client
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from environments import make_all, peers, size
from model import ROWS, bundle_of, clean_environment, complete_rows, train
from processes import Failed, cores, first_answer, load, start
from report import describe, draw, goals, ratios, table
from servers import BARE, EMPTY, MLSERVE, REFERENCE, SERVERS, as_body, fill

HERE = Path(__file__).resolve().parent
CLIENTS = (1, 8, 64)
TURNS = 8  # How often each client should get an answer in a visit: what is under way at its end is not counted
NEEDED = (REFERENCE, EMPTY, BARE)
TROUBLE = (Failed, OSError, http.client.HTTPException, subprocess.TimeoutExpired, LookupError, TypeError)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, about a minute: to try it, not to quote")
    parser.add_argument("--here", action="store_true", help="serve from this environment instead of making clean ones")
    parser.add_argument("--only", nargs="+", metavar="SERVER", help="; ".join(s.name for s in SERVERS))
    parser.add_argument("--into", type=Path, help="folder for all that is written, instead of bench/ and docs/images/")
    given = parser.parse_args()
    known = [s.name for s in SERVERS]
    for name in given.only or ():
        if name not in known:
            parser.error(f"there is no server {name!r}; known are {', '.join(known)}")
    return given


class Progress:
    "Says what is done, how much of it there is, and how long the rest may take"

    def __init__(self):
        self.begin, self.steps, self.done = time.monotonic(), 0, 0

    def plan(self, steps):
        self.begin, self.steps, self.done = time.monotonic(), steps, 0

    def say(self, text):
        print(f"  {text} ...", flush=True)

    def step(self, text):
        self.done += 1
        left = (time.monotonic() - self.begin) / self.done * (self.steps - self.done)
        print(f"[{self.done:>3}/{self.steps}] {text}   (about {left / 60:.0f} min {left % 60:.0f} s left)", flush=True)


def check_tools():
    "Stop at once if something is missing"
    if not hasattr(os, "sched_setaffinity") or not Path("/proc/self/stat").exists():
        sys.exit("bench: this needs Linux, where processes can be pinned to a core and measured in /proc")
    if shutil.which("wrk") is None:
        sys.exit("bench: wrk is not installed; `sudo apt-get install wrk` installs it (or see github.com/wg/wrk)")


def environment_of(server, environments):
    "The environment that runs a server; raises Failed if there is none"
    if server.environment in environments:
        return environments[server.environment]
    raise Failed(f"{server.environment} is not installed; `make bench-peers` installs it")


def launch(server, environment, work, bundle):
    "Start a server"
    variables = {name: fill(value, environment, work) for name, value in server.variables.items()}
    variables["BENCH_PIPELINE"] = str(bundle.folder / "pipeline.skops")
    command = [fill(part, environment, work) for part in server.command]
    variables["PATH"] = f"{Path(command[0]).parent}:{os.environ['PATH']}"
    folder = work / server.project if server.project else HERE
    return start(command, folder, variables, work / "logs" / f"{server.name}.log")


def has_walk(environment):
    "Was the compiled walk built into an environment?"
    code = "import sys, importlib.util as u; sys.exit(u.find_spec('mlserve._walk') is None)"
    command = [fill("{python}", environment, Path()), "-c", code]
    return subprocess.run(command, cwd=HERE, env=clean_environment(), capture_output=True).returncode == 0


def prepare(server, environment, work, bundle):
    "Look whether the environment is what it should be, and run what must be run once before a server is started"
    if server.walk is not None and has_walk(environment) != server.walk:
        raise Failed(f"its environment has {'no' if server.walk else 'a'} compiled walk")
    if server.prepare:
        command = [fill(part, environment, work) for part in server.prepare]
        variables = clean_environment() | {"BENCH_PIPELINE": str(bundle.folder / "pipeline.skops")}
        done = subprocess.run(command, cwd=HERE, env=variables, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise Failed((done.stderr.strip().splitlines() or ["it could not be prepared"])[-1])


def check(server, running, rows, labels):
    "Every row must be answered, and rightly"
    if server.engine:
        with urlopen(f"http://127.0.0.1:{running.port}/metrics", timeout=30) as told:
            if f'engine="{server.engine}"' not in told.read().decode():
                raise Failed(f"GET /metrics does not say that the engine is {server.engine}")
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    for row, label in zip(rows, labels, strict=True):
        status, answer = running.ask("POST", server.path, as_body(server, row), connection)
        if status != 200:
            raise Failed(f"it answers {status} to a good row: {json.dumps(answer)[:200]}")
        if server.label and server.label(answer) != label:
            raise Failed(f"it answers {server.label(answer)!r} where the pipeline predicts {label!r}")
    connection.close()


def begin(server, environments, work, bundle, starts, rows, labels):
    "Start a server some times, to see how long that takes, and check the last one's answers"
    environment = environment_of(server, environments)
    prepare(server, environment, work, bundle)
    cold = []
    while True:
        running = launch(server, environment, work, bundle)
        try:
            cold.append(first_answer(running, server.path, as_body(server, rows[0])))
            if len(cold) == starts:
                check(server, running, rows, labels)
                return running, cold[1:] or cold  # the first also warms the disk's cache
        except BaseException:
            running.stop()
            raise
        running.stop()


def start_all(chosen, environments, work, bundle, starts, rows, labels, progress):
    "Those servers that run and answer rightly, what their start took, and why the others are left out"
    running, cold, skipped = {}, {}, {}
    try:
        for server in chosen:
            try:
                running[server.name], cold[server.name] = begin(
                    server, environments, work, bundle, starts, rows, labels
                )
                wall = statistics.median(seconds for seconds, _ in cold[server.name])
                progress.step(f"{server.name}: first answer after {wall:.2f} s")
            except TROUBLE as error:
                if server.name in NEEDED:
                    sys.exit(f"bench: {server.name}: {error}")
                skipped[server.name] = str(error) or type(error).__name__
                progress.step(f"{server.name}: SKIPPED, {skipped[server.name]}")
    except BaseException:
        stop_all(running)
        raise
    return running, cold, skipped


def stop_all(running):
    for one in running.values():
        one.stop()


def write_bodies(server, rows, folder):
    "The requests of one server as a file for wrk"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{server.name.replace(' ', '-')}.jsonl"
    file.write_bytes(b"\n".join(as_body(server, row) for row in rows) + b"\n")
    return file


def long_enough(seconds, clients, visits):
    "Seconds of a visit: more for a slow server, by what it did for one client"
    alone = [v["rps"] for v in visits if v["clients"] == 1]
    return min(max(seconds, round(TURNS * clients / alone[-1])), 3 * seconds) if alone else seconds


def load_all(chosen, running, rows, rounds, lead, seconds, work, skipped, progress):
    "Visit the servers in turn, round after round; who fails is out"
    bodies = {s.name: write_bodies(s, rows, work / "bodies") for s in chosen}
    visits = {s.name: [] for s in chosen}
    for number in range(rounds):
        for clients in CLIENTS:
            for server in [s for s in chosen if s.name not in skipped]:
                try:
                    enough = long_enough(seconds, clients, visits[server.name])
                    load(running[server.name], server.path, bodies[server.name], clients, lead)
                    seen = load(running[server.name], server.path, bodies[server.name], clients, enough)
                except (Failed, subprocess.TimeoutExpired) as error:
                    if server.name in NEEDED:
                        sys.exit(f"bench: {server.name}: {error}")
                    skipped[server.name] = str(error)
                    progress.step(f"{server.name}: FAILED, {error}")
                    continue
                visits[server.name].append({"round": number, **seen})
                many = f"{clients} client{'s' * (clients > 1)}"
                progress.step(f"round {number + 1}, {many}: {server.name}, {seen['rps']:,.0f} requests/s")
    return {name: seen for name, seen in visits.items() if name not in skipped}


def measure_batches(project, rounds):
    "Many rows at once, in a process of its own"
    command = [sys.executable, HERE / "batch.py", project, str(rounds)]
    done = subprocess.run(command, env=clean_environment(), stdout=subprocess.PIPE, text=True, timeout=900)
    if done.returncode:
        sys.exit("bench: the batch figures failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def machine():
    "What it ran on"
    info = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def main():
    given = arguments()
    check_tools()
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the servers are stopped then too
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    progress = Progress()
    into = given.into.resolve() if given.into else HERE
    work = into / "work"
    rounds, lead, seconds, starts = (1, 2, 2, 1) if given.quick else (3, 8, 4, 4)
    settings = {
        "rounds": rounds,
        "lead": lead,
        "seconds": seconds,
        "starts": starts,
        "clients": CLIENTS,
        "quick": given.quick,
    }
    about = {"machine": machine(), "settings": settings}
    chosen = [s for s in SERVERS if not given.only or s.name in (REFERENCE, *given.only)]

    project = train(work, progress.say)
    bundle = bundle_of(project)
    rows, labels = complete_rows(project, ROWS, held_out=True)
    ours = sorted({s.environment for s in SERVERS if s.name in NEEDED} | {m[1] for m in MLSERVE})
    environments = dict.fromkeys(ours, Path(sys.prefix)) if given.here else make_all(work, progress.say)
    environments |= peers(work)

    print(f"server on core {cores()[0]}, load on core {cores()[1]}", flush=True)
    visits_ahead = len(chosen) * len(CLIENTS) * rounds
    least, most = (visits_ahead * (lead + s + 1) / 60 for s in (seconds, 3 * seconds))
    print(f"{visits_ahead} visits: {least:.0f} to {most:.0f} minutes, and a few for starts and batches", flush=True)
    progress.plan(len(chosen))
    running, cold, skipped = start_all(chosen, environments, work, bundle, starts, rows, labels, progress)
    try:
        there = [s for s in chosen if s.name in running]
        progress.plan(len(there) * len(CLIENTS) * rounds)
        visits = load_all(there, running, rows, rounds, lead, seconds, work, skipped, progress)
    finally:
        stop_all(running)
    progress.say("many rows at once")
    batch = measure_batches(project, 3 if given.quick else 9)
    sizes = {}
    if not given.here:
        for name in sorted({s.environment for s in chosen} & set(environments)):
            progress.say(f"weighing the environment {name}")
            sizes[name] = size(environments[name])

    found = about | {"model": f"{bundle.manifest.name} {bundle.manifest.version}"}
    found["servers"] = {
        s.name: describe(cold[s.name], visits[s.name], sizes.get(s.environment)) for s in there if s.name in visits
    }
    found |= {"ratios": ratios(visits), "batch": batch, "skipped": skipped}
    found["goals"] = goals(found)
    # A quick run is for trying: it does not replace figures that are published
    out = work / "quick" if given.quick and not given.into else into
    out.mkdir(parents=True, exist_ok=True)
    picture = HERE.parent / "docs" / "images" / "bench.png" if out == HERE else out / "bench.png"
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "results.md").write_text(table(found))
    draw(found, picture)
    print(f"\n{table(found)}\nwritten: {out / 'results.json'}, {out / 'results.md'}, {picture}")


if __name__ == "__main__":
    main()
