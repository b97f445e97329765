"The servers that are compared: how each is started, what it is sent, where its answer holds the label."

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REFERENCE, EMPTY, BARE = "FastAPI + pandas", "empty FastAPI", "bare ASGI"
COMPILED = "mlserve compiled"
UNKEPT = "mlserve compiled, no journal"  # keeps no answer: what the journal costs is seen beside it
WHOLE = "mlserve compiled, whole journal"  # keeps every answer, however many come


def _label(answer):
    return answer["label"]


@dataclass(frozen=True)
class Server:
    "One way to serve"

    name: str
    environment: str  # Whose Python runs it: a name of `environments.make_all` or `environments.peers`
    command: tuple[str, ...]  # {bin} and {python} are the environment's, {port} a free one, {work} the work folder
    variables: Mapping[str, str] = field(default_factory=dict)  # Of its environment
    project: str = ""  # Runs in this folder of the work folder: `model.train` makes them; else in bench/
    path: str = "/predict"
    body: Callable[[Any], Any] = lambda row: row  # The row as this server wants it
    label: Callable[[Any], Any] | None = _label  # None: it predicts nothing
    engine: str = ""  # What its GET /metrics must say
    walk: bool | None = None  # Must its environment have the compiled walk, or must it not?
    prepare: tuple[str, ...] = ()  # A command to run before it is first started


def _uvicorn(name, *more):
    return ("{python}", "-m", "uvicorn", f"{name}:app", "--port", "{port}", *more)


# How each engine of mlserve is had. A row that is not what it says it is gets skipped, and the reason printed. Those that are
# held against one another follow one another: a machine that is slower for a while is so for both.
#    name                environment        project            engine     compiled walk, and what else is set
MLSERVE = (
    (COMPILED,           "mlserve",         "project",         "plan",    True,  {}),
    (UNKEPT,             "mlserve",         "project",         "plan",    True,  {"MLSERVE_JOURNAL_SAMPLE": "0"}),
    (WHOLE,              "mlserve",         "project",         "plan",    True,  {"MLSERVE_JOURNAL_PER_SECOND": "0"}),
    ("mlserve Python",   "mlserve-python",  "project",         "plan",    False, {}),
    ("mlserve sklearn",  "mlserve-sklearn", "project-sklearn", "sklearn", None,  {}),
)  # fmt: skip

SERVERS = (
    Server(REFERENCE, "reference", _uvicorn("reference")),
    Server(EMPTY, "reference", _uvicorn("empty", "--no-access-log"), label=None),
    Server(BARE, "reference", _uvicorn("bare", "--no-access-log"), label=None),
    *(
        Server(
            name,
            environment,
            ("{bin}/mlserve", "serve"),
            {"MLSERVE_SERVE_PORT": "{port}", "MLSERVE_SERVE_DRAIN": "0.1", **more},
            project=project,
            engine=engine,
            walk=walk,
        )
        for name, environment, project, engine, walk, more in MLSERVE
    ),
    Server(
        "BentoML",
        "bentoml",
        ("{bin}/bentoml", "serve", "peers.bento_service:Census", "--host", "127.0.0.1", "--port", "{port}"),
        {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "{work}/bentoml"},
        body=lambda row: {"row": row},
    ),
    Server(
        "BentoML, batching",
        "bentoml",
        ("{bin}/bentoml", "serve", "peers.bento_service:Census", "--host", "127.0.0.1", "--port", "{port}"),
        {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "{work}/bentoml"},
        path="/predict_many",
        body=lambda row: {"rows": [row]},
        label=lambda answer: answer[0],
    ),
    Server("LitServe", "litserve", ("{python}", "-m", "peers.lit_service", "{port}")),
    Server(
        "MLflow",
        "mlflow",
        ("{bin}/mlflow", "models", "serve", "-m", "{work}/mlflow", "--env-manager", "local", "-p", "{port}"),
        {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": "sqlite:///{work}/mlflow.db"},
        path="/invocations",
        body=lambda row: {"dataframe_records": [row]},
        label=lambda answer: answer["predictions"][0],
        prepare=("{python}", "peers/mlflow_model.py", "{work}/mlflow"),
    ),
)


def fill(text, environment, work):
    "A command or variable with its placeholders filled in, {port} apart"
    home = environment / "bin" if environment else Path(sys.executable).parent
    for name, value in {"{python}": home / "python", "{bin}": home, "{work}": work}.items():
        text = text.replace(name, str(value))
    return text


def as_body(server, row):
    "A row as the bytes that a server is sent"
    return json.dumps(server.body(row), separators=(",", ":")).encode()
