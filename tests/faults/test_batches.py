"Many callers of a pipeline that scikit-learn itself runs: rows are scored together, and each caller gets its own answer"

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pandas as pd
from sklearn.neighbors import KNeighborsRegressor

from mlserve.contract import Contract, Field, Output
from tests.conftest import Service
from tests.served import bundle_of

CLIENTS, EACH = 64, 5
CONTRACT = Contract((Field("seat", "integer", example=1),), Output("regression", "price"))


def ask(url, client):
    "Ask for seats of one's own, one after the other; the prices that do not belong to them"
    wrong = []
    with httpx.Client(base_url=url, timeout=60) as session:
        for number in range(EACH):
            seat = client * EACH + number
            answer = session.post("/predict", json={"seat": seat})
            if answer.status_code != 200 or answer.json()["value"] != 3 * seat:
                wrong.append((seat, answer.status_code, answer.text))
    return wrong


def test_sixty_four_callers_at_once_each_get_the_price_of_their_own_seat(tmp_path):
    seats = pd.DataFrame({"seat": range(CLIENTS * EACH)})
    pipeline = KNeighborsRegressor(1).fit(seats, 3 * seats["seat"])  # knows each seat by heart, and has no plan
    bundle = bundle_of(tmp_path / "models/odd", pipeline, CONTRACT, [{"seat": 5}])
    assert bundle.manifest.engine == "sklearn"
    (tmp_path / "settings.ini").write_text("[model]\nname = odd\n")
    service = Service(tmp_path, MLSERVE_SERVE_DRAIN=0.1)
    with ThreadPoolExecutor(CLIENTS) as threads:
        wrong = [told for client in threads.map(ask, [service.url] * CLIENTS, range(CLIENTS)) for told in client]
    # one that leaves before its answer takes nobody else's along
    body = json.dumps({"seat": 1}).encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port)) as leaving:
            leaving.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n")
            leaving.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    wrong += ask(service.url, 7)
    assert "Traceback" not in service.stop()
    assert wrong == []
