"The rate that one client may ask at, however many processes count it"

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.rate import Rate, TooManyRequests

WORKER = """
import sys
from pathlib import Path
from mlserve.rate import Rate, TooManyRequests
rate, taken = Rate(1.0, 500, Path(sys.argv[1])), 0
print("ready", flush=True)
sys.stdin.readline()
for number in range(20_000):
    try:
        rate.take("203.0.113.7", now=1000.0)
        taken += 1
    except TooManyRequests:
        pass
print(taken)
"""


def test_four_processes_share_one_bucket(tmp_path):
    command = [sys.executable, "-c", WORKER, tmp_path]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    taken = [int(worker.communicate(timeout=300)[0]) for worker in workers]
    assert sum(taken) == 500, taken


def test_a_process_that_dies_leaves_its_counts_and_no_lock(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from mlserve.rate import Rate; rate = Rate(1, 3, Path(sys.argv[1]));"
        "rate.take('ada', 10.0); rate._turn(0, 4096 * 16).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], timeout=60).returncode == 9
    rate = Rate(1, 3, tmp_path)
    rate.take("ada", 10.0)
    rate.take("ada", 10.0)
    with pytest.raises(TooManyRequests):
        rate.take("ada", 10.0)


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_what_the_rate_adds(rate, burst, pauses):
    bucket, now, taken = Rate(rate, burst), 100.0, []
    for pause in pauses:
        now += pause
        try:
            bucket.take("ada", now)
            taken.append(now)
        except TooManyRequests as refused:
            assert refused.seconds >= 1
    for number, first in enumerate(taken):
        for last in range(number, len(taken)):
            assert last - number + 1 <= burst + rate * (taken[last] - first) + 1e-6


def test_whoever_waits_as_told_is_let_in():
    bucket, now = Rate(0.3, 1), 50.0
    for _ in range(20):
        bucket.take("ada", now)
        with pytest.raises(TooManyRequests) as refused:
            bucket.take("ada", now)
        assert refused.value.headers == {"retry-after": "4"}
        now += refused.value.seconds
