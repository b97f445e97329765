"What the clients of Triton and MLflow understand; `make test-clients` installs them in an environment of their own"

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import Service

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-clients/bin/python"
KEY = "a-key-for-clients-0123456789"


@pytest.mark.clients
def test_clients_of_others_get_the_answers_of_predict(projects, services):
    assert PYTHON.exists(), "run make test-clients, which installs the clients"
    running = Service(projects["census"], MLSERVE_ACCESS_PREDICT_KEYS=KEY, MLSERVE_SERVE_DRAIN=0.1)
    try:
        rows = [{**httpx.get(running.url + "/model", timeout=60).json()["example"], "age": age} for age in (20, 45, 60)]
        rows = [{name: "Private" if value is None else value for name, value in row.items()} for row in rows]
        answers = httpx.post(running.url + "/predict", json=rows, headers={"x-api-key": KEY}, timeout=60).json()
        command = [PYTHON, ROOT / "tests/clients/conversation.py", running.url, KEY, json.dumps(rows)]
        done = subprocess.run([*command, services["census"].url], capture_output=True, text=True, timeout=600)
    finally:
        running.stop()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    labels = [answer["label"] for answer in answers]
    shares = [list(answer["probabilities"].values()) for answer in answers]
    assert told["live"] == [True] * 3 and told["index"] == ["census"] and told["triton id"] == "7"
    assert told["triton labels"] == labels
    assert told["triton bytes"] == told["triton json"] == shares
    assert told["mlflow ping"]
    for shape in ("csv", "split", "records", "invoke"):
        assert told[f"mlflow {shape}"] == labels, shape
    assert "401" in told["triton without a key"] and "needs a key" in told["triton without a key"]
    assert "400" in told["triton mistake"] and "missing" in told["triton mistake"]
    assert "401" in told["mlflow without a key"] or "needs a key" in told["mlflow without a key"]
