"Talk to a running service with the clients of others; prints what they understood as JSON. Runs in .venv-clients."

import json
import sys
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import tritonclient.http as triton
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tritonclient.utils import InferenceServerException

url, key, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
TYPES = {"INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_, "BYTES": np.object_}
told = {}


def columns(metadata, binary):
    for given in metadata["inputs"]:
        values = np.array([[row[given["name"]]] for row in rows], dtype=TYPES[given["datatype"]])
        tensor = triton.InferInput(given["name"], list(values.shape), given["datatype"])
        yield tensor.set_data_from_numpy(values, binary_data=binary)


def ask(client, binary, outputs=None):
    inputs = list(columns(client.get_model_metadata("census"), binary))
    return client.infer("census", inputs, outputs=outputs, request_id="7", headers={"Authorization": f"Bearer {key}"})


client = triton.InferenceServerClient(url.removeprefix("http://"))
told["live"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready("census")]
told["index"] = [model["name"] for model in client.get_model_repository_index()]
by_bytes, by_json = (
    ask(client, True),
    ask(client, False, [triton.InferRequestedOutput("predict_proba", binary_data=False)]),
)
told["triton id"] = by_bytes.get_response()["id"]
told["triton labels"] = [text.decode() for text in by_bytes.as_numpy("predict").ravel()]
told["triton bytes"] = by_bytes.as_numpy("predict_proba").tolist()
told["triton json"] = by_json.as_numpy("predict_proba").tolist()
try:
    client.infer("census", list(columns(client.get_model_metadata("census"), True)))
except InferenceServerException as refused:
    told["triton without a key"] = str(refused)
try:
    wrong = triton.InferInput("age", [1, 1], "FP64").set_data_from_numpy(np.array([[30.5]]))
    client.infer("census", [wrong], headers={"Authorization": f"Bearer {key}"})
except InferenceServerException as refused:
    told["triton mistake"] = str(refused)

host, _, port = url.removeprefix("http://").partition(":")
mlflow = ScoringServerClient(host, int(port))
told["mlflow ping"] = mlflow.ping() is None  # it raises otherwise
frame = pd.DataFrame(rows)
for name, body, type_ in [
    ("csv", frame.to_csv(index=False), "text/csv"),
    ("split", json.dumps({"dataframe_split": json.loads(frame.to_json(orient="split"))}), "application/json"),
    ("records", json.dumps({"dataframe_records": json.loads(frame.to_json(orient="records"))}), "application/json"),
]:
    request = Request(f"{url}/invocations", body.encode(), {"content-type": type_, "authorization": f"Bearer {key}"})
    told[f"mlflow {name}"] = json.load(urlopen(request))["predictions"]
try:
    mlflow.invoke(frame)  # it has no way to send a key
except Exception as refused:
    told["mlflow without a key"] = str(refused)
if len(sys.argv) > 4:  # a service that is open
    host, _, port = sys.argv[4].removeprefix("http://").partition(":")
    told["mlflow invoke"] = ScoringServerClient(host, int(port)).invoke(frame).get_predictions().iloc[:, 0].tolist()
print(json.dumps(told))
