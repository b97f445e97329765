"The benchmark runs, and reports what it should; how fast anything is, is not its business here"

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import environment

ROOT = Path(__file__).resolve().parents[1]
RUN = [sys.executable, ROOT / "bench" / "run.py"]
REFERENCE, OURS = "FastAPI + pandas", "mlserve sklearn"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "A run that is as short as it can be"
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed: apt-get install wrk")
    into = tmp_path_factory.mktemp("bench")
    command = [*RUN, "--quick", "--here", "--only", OURS, "--into", into]
    done = subprocess.run(command, cwd=into, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return into, done.stdout


@pytest.fixture(scope="module")
def results(ran):
    return json.loads((ran[0] / "results.json").read_text())


@pytest.mark.slow
def test_each_server_is_visited_with_each_number_of_clients(results):
    assert list(results["servers"]) == [REFERENCE, OURS] and results["skipped"] == {}
    for server in results["servers"].values():
        assert [v["clients"] for v in server["visits"]] == [1, 8, 64]
        for visit in server["visits"]:
            assert visit["requests"] > 0 and visit["rps"] == pytest.approx(
                visit["requests"] / visit["seconds"], rel=0.01
            )
            assert 0 < visit["p50_ms"] <= visit["p99_ms"] and visit["cpu_ms"] > 0 and visit["rss_mb"] > 20
        assert server["cold_s"] > 0 and server["cold_cpu_s"] > 0


@pytest.mark.slow
def test_ratios_are_those_of_the_visits(results):
    visits = {name: {v["clients"]: v for v in s["visits"]} for name, s in results["servers"].items()}
    for clients in (1, 8, 64):
        for measure in ("rps", "cpu_ms", "p50_ms"):
            ratio = results["ratios"][OURS]["reference"][str(clients)][measure]
            expected = visits[OURS][clients][measure] / visits[REFERENCE][clients][measure]
            assert ratio["low"] == ratio["median"] == ratio["high"] == pytest.approx(expected, abs=1e-3)
            assert results["ratios"][REFERENCE]["reference"][str(clients)][measure]["median"] == 1


@pytest.mark.slow
def test_batches_are_compared_with_pandas(results):
    ways = results["batch"]["ways"]
    assert results["batch"]["rows"] == 10_000 and {"pandas + scikit-learn", OURS, "mlserve Python"} <= set(ways)
    for shapes in ways.values():
        assert set(shapes) == {"columns", "records"} and all(one["krows_s"] > 0 for one in shapes.values())


@pytest.mark.slow
def test_table_and_picture_are_written(ran, results):
    into, printed = ran
    table = (into / "results.md").read_text()
    assert table in printed and table.startswith("# How fast it serves\n\n**A quick run")
    for line in (line for line in table.splitlines() if line.startswith("| " + OURS)):
        assert re.fullmatch(r"\| .+ \|", line) and "None" not in line
    assert (into / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_without_wrk_it_says_what_to_do(tmp_path):
    done = subprocess.run(
        [*RUN, "--quick", "--into", tmp_path], env=environment(PATH=str(tmp_path)), capture_output=True, text=True
    )
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("bench: wrk is not installed; `sudo apt-get install wrk`")


def test_what_the_journal_costs_is_told_for_its_default_and_for_all_answers(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import report
    from servers import COMPILED, UNKEPT, WHOLE

    def visits(speed):
        return [{"round": 0, "clients": c, "rps": 1e4 * speed, "cpu_ms": 1 / speed, "p50_ms": 1} for c in (1, 64)]

    seen = {UNKEPT: visits(1), COMPILED: visits(0.98), WHOLE: visits(0.8)}
    found = {"servers": seen, "ratios": report.ratios(seen), "settings": {"clients": [1, 64]}}
    told = report.journal(found)
    assert "| as many as by default | 0.98 | 0.98 | 1.02 | 1.02 |\n| all | 0.8 | 0.8 | 1.25 | 1.25 |\n" in told
    assert report.journal({**found, "servers": {COMPILED: seen[COMPILED]}}) == ""


def test_the_published_table_is_that_of_the_published_figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import report

    found = json.loads((ROOT / "bench/results.json").read_text(encoding="utf-8"))
    assert not found["settings"]["quick"] and (ROOT / "bench/results.md").read_text(encoding="utf-8") == report.table(
        found
    )


def test_a_server_that_is_not_known_is_named(tmp_path):
    done = subprocess.run([*RUN, "--only", "gunicorn"], env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "there is no server 'gunicorn'; known are FastAPI + pandas, " in done.stderr


STARTER = """
import sys, time
from pathlib import Path
from processes import start
command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
print(start(command, Path("."), {}, Path(sys.argv[1]) / "server.log").process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark needs Linux")
def test_no_server_outlives_the_benchmark_even_if_it_is_killed(tmp_path):
    command = [sys.executable, "-c", STARTER, tmp_path]
    bench = subprocess.Popen(
        command, env=environment(PYTHONPATH=ROOT / "bench"), stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    server = Path("/proc") / bench.stdout.readline().strip() / "stat"
    assert server.read_text().rpartition(")")[2].split()[0] != "Z"
    bench.kill()
    bench.communicate()
    for _ in range(50):
        if not server.exists() or server.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the server still runs")
