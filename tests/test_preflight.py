"Each way a deployment goes wrong has a broken project here, and a sound one passes every check"

from dataclasses import replace
from pathlib import Path

import pytest

from mlserve.preflight import CHECKS, Facts, look
from mlserve.settings import Access, Keys, Serve, Settings, Store
from tests.conftest import mlserve

SOUND = {
    "Procfile": "web: python -m mlserve serve --host 0.0.0.0 --follow 30\n",
    "requirements.txt": "fastapi==0.165.0\n",
    ".python-version": "3.11\n",
    ".slugignore": "/nbs\n/tests\n",
    "app.json": '{"stack": "heroku-24", "formation": {"web": {"size": "basic"}}}',
    "bin/post_compile": "#!/bin/sh\n",
    "main.py": "app = None\n",
    "mlserve/app.py": "",
    "settings.ini": "",
}
ENVIRON = {"DATABASE_URL": "postgres://u:p@h/d", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}


def facts(root, files=None, environ=None, **more):
    (root / "models/m").mkdir(parents=True, exist_ok=True)
    (root / "models/m/manifest.json").write_text("{}")
    stated = {
        name: (text.encode(), name.startswith("bin/"))
        for name, text in (SOUND | (files or {})).items()
        if text is not None
    }
    return Facts(stated, ENVIRON | (environ or {}), Settings(root=root), **more)


def serving(**settings):
    return lambda f: replace(f, settings=replace(f.settings, serve=Serve(**settings)))


def stored(url):
    return lambda f: replace(f, settings=replace(f.settings, store=Store(url=url, wait=1.0)))


def only_feedback(f):
    return replace(f, settings=replace(f.settings, access=Access(feedback_keys=Keys("a-key-that-is-long-enough"))))


def without_model(f):
    for path in Path(f.settings.root).glob("models/*/manifest.json"):
        path.unlink()
    return f


def not_executable(f):
    return replace(f, files={**f.files, "bin/post_compile": (b"#!/bin/sh\n", False)})


def web(command):
    return {"files": {"Procfile": f"web: {command}\n"}}


BROKEN = {
    "Procfile": {"files": {"Procfile": "release: true\n"}},
    "line ends": {"files": {"Procfile": "web: python -m mlserve serve\r\n"}},
    "port": web("gunicorn app:app -b 0.0.0.0:8000"),
    "port in the config": {"files": {"app.json": '{"env": {"PORT": "80"}}'}},
    "host": web("uvicorn main:app --port $PORT --host 127.0.0.1"),
    "keep-alive": web("uvicorn main:app --port $PORT --timeout-keep-alive 5"),
    "stop": {"change": serving(stop_timeout=60.0)},
    "reload": web("uvicorn main:app --reload"),
    "workers and memory": {"environ": {"WEB_CONCURRENCY": "9"}},
    "pull at start": {"files": {"main.py": 'import os\nif "DYNO" in os.environ:\n    os.system("dvc pull")\n'}},
    "requirements": {"files": {"requirements.txt": None}},
    "one lock file": {"files": {"uv.lock": "version = 1\n"}},
    "flat requirements": {"files": {"requirements.txt": "-r serving.txt\n"}},
    "pinned requirements": {"files": {"requirements.txt": "fastapi\n"}},
    "local requirements": {"files": {"requirements.txt": "-e .\n"}},
    "size of the requirements": {"files": {"requirements.txt": "tensorflow-cpu==2.21.0\n"}},
    "Python": {"files": {".python-version": "3.9\n"}},
    "runtime.txt": {"files": {"runtime.txt": "python-3.11.9\n"}},
    ".slugignore": {"files": {".slugignore": "/requirements.txt\n"}},
    "negation in .slugignore": {"files": {".slugignore": "/nbs\n!nbs/index.ipynb\n"}},
    "anchors in .slugignore": {"files": {".slugignore": "docs\n"}},
    "environment in the commit": {"files": {".venv/pyvenv.cfg": "home = /usr\n"}},
    "hooks": {"change": not_executable},
    "apt packages": {"files": {"Aptfile": "https://dvc.org/deb/pool/stable/d/dv/dvc_2.0.18_amd64.deb\n"}},
    "app.json": {"files": {"app.json": "{,}"}},
    "stack": {"files": {"app.json": '{"stack": "heroku-20"}'}},
    "Preboot": {"files": {"app.json": '{"features": ["preboot"], "formation": {"web": {"size": "eco"}}}'}},
    "uncommitted changes": {"changed": 2},
    "secrets in the commit": {"files": {".env": "HEROKU_API_KEY=x\n"}},
    "database": {"environ": {"DATABASE_URL": "mysql://u:p@h/d"}},
    "disk of a dyno": {"environ": {"DATABASE_URL": ""}},
    "pair of keys": {"environ": {"AWS_SECRET_ACCESS_KEY": ""}},
    "keys for predictions": {"change": only_feedback},
    "way to the store": {"change": stored("remote")},
    "credentials of the store": {"change": stored("http://127.0.0.1:9/store")},
    "a model to serve": {"change": without_model},
}


def test_a_sound_project_passes(tmp_path):
    assert [f for f in look(facts(tmp_path)) if f.state != "ok"] == []


def test_each_check_has_a_broken_project():
    assert set(BROKEN) == set(CHECKS) and len(CHECKS) >= 25


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found_and_nothing_else(tmp_path, name):
    made = dict(BROKEN[name])
    change = made.pop("change", lambda f: f)
    found = {f.name.removeprefix("heroku: "): f for f in look(change(facts(tmp_path, **made))) if f.state != "ok"}
    assert set(found) == {name}
    assert "\n" not in found[name].message and "Traceback" not in found[name].message


@pytest.mark.parametrize(
    "options", ["--workers ${WEB_CONCURRENCY:-2}", "--timeout-keep-alive ${KEEP:-95}", "--workers $WEB_CONCURRENCY"]
)
def test_an_option_may_be_a_variable(tmp_path, options):
    sound = web(f"python -m mlserve serve --host 0.0.0.0 {options}")
    assert [f for f in look(facts(tmp_path, **sound)) if f.state != "ok"] == []
    heavy = [f.name for f in look(facts(tmp_path, environ={"WEB_CONCURRENCY": "9"}, **sound)) if f.state != "ok"]
    assert heavy == ["heroku: workers and memory"]


def test_the_command_looks_at_the_commit(census):
    told = mlserve(census, "doctor", "--heroku")
    assert told.returncode == 1 and "has no commit" in told.stdout and "Traceback" not in told.stderr
