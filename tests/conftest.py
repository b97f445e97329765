"Models and services that several tests share"

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import hypothesis
import pytest

from mlserve.retrain import train
from mlserve.settings import load_settings

from .ports import free_port

# the same cases in every run, however busy the machine is; a failure found elsewhere becomes an explicit example
hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent
# whatever the machine that runs the suite says
os.environ["GIT_CONFIG_GLOBAL"], os.environ["GIT_CONFIG_SYSTEM"] = str(ROOT / "tests" / "gitconfig"), os.devnull
os.environ["DVC_NO_ANALYTICS"] = "1"
for _name in ("NO_PROXY", "no_proxy"):
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), "127.0.0.1,localhost"]))

sys.path.append(str(ROOT / "docs"))
import recipes  # noqa: E402

EXAMPLES = ("census", "diabetes", "wine")
# whose lines the notebooks and other tests cover too, and which take twice as long under a tracer: coverage does not count
# them, nor the processes they start
UNTRACED = tuple(
    """
    property/ contract/ test_adult test_bench test_collect test_compare test_data test_drift test_evaluate
    test_examples test_exchange test_gate test_ids test_journal test_layers test_loop test_new test_pages test_persist
    test_plots test_readme test_reproducible test_shadow test_site test_vigil test_weeks
    """.split()
)
MLSERVE = Path(sys.executable).with_name("mlserve")


def is_untraced(item):
    return str(item.path.relative_to(Path(__file__).parent)).startswith(UNTRACED)


def pytest_collection_modifyitems(items):
    for item in items:
        if is_untraced(item):
            item.add_marker(pytest.mark.no_cover)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    "What an untraced test starts is not traced either"
    kept = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("COVERAGE_") and is_untraced(item)}
    try:
        return (yield)
    finally:
        os.environ.update(kept)


def make_project(folder, example):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.ini").write_text(f"[model]\nrecipe = mlserve.examples.{example}:recipe\n")
    return folder


def train_once(root, example):
    "A project with a trained bundle, made by whichever process of the suite comes first"
    root.mkdir(exist_ok=True)
    with (root / f"{example}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = root / example
        if not (folder / "models").exists():
            train(load_settings(make_project(folder, example), environ={}))
            recipes.keep(folder, example)  # the site shows its card, and need not train it again
    return folder


@pytest.fixture(scope="session")
def projects(tmp_path_factory):
    "A project with a trained bundle for each recipe that ships"
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    own = tmp_path_factory.mktemp("projects")
    # each process begins with another one, so that none waits for what a neighbour trains
    first = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % len(EXAMPLES)
    order = EXAMPLES[first:] + EXAMPLES[:first]
    return {name: shutil.copytree(train_once(shared / "trained", name), own / name) for name in order}


def copy_project(project, folder):
    "All but the journal, where a service of the suite may be writing"
    return shutil.copytree(project, folder, ignore=shutil.ignore_patterns("journal"))


@pytest.fixture(scope="session", params=EXAMPLES)
def project(request, projects):
    return projects[request.param]


@pytest.fixture
def census(projects, tmp_path):
    "A copy of the census project, to be changed at will"
    return copy_project(projects["census"], tmp_path / "census")


def environment(**more):
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("MLSERVE_") and k not in ("PORT", "WEB_CONCURRENCY", "DATABASE_URL")
    }
    return kept | {k: str(v) for k, v in more.items()}


def mlserve(folder, *args, **env):
    "Run a command of mlserve in a project"
    command = [MLSERVE, *map(str, args)]
    return subprocess.run(command, cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="session")
def s3():
    "Address of an S3 server that knows one bucket"
    code = (
        "import socket; from moto.server import ThreadedMotoServer as S; import boto3, sys;"
        "s = S(ip_address='127.0.0.1', port=0, verbose=False); s.start(); h, p = s.get_host_and_port();"
        "boto3.client('s3', endpoint_url=f'http://127.0.0.1:{p}', region_name='us-east-1').create_bucket(Bucket='models');"
        "print('PORT', p, flush=True); sys.stdin.read()"
    )
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(**keys),
        text=True,
    )
    for line in server.stdout:
        if line.startswith("PORT"):
            break
    yield f"http://127.0.0.1:{line.split()[1]}"
    server.kill()
    server.communicate()


class Service:
    "A running service, by `mlserve serve` or by uvicorn with some options"

    def __init__(self, folder, *uvicorn, **env):
        self.port = free_port()
        given = ["uvicorn", "--factory", "mlserve.service:asgi", "--port", str(self.port), *uvicorn]
        command, *options = given if uvicorn else ["mlserve", "serve"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [MLSERVE.with_name(command), *options],
            cwd=folder,
            env=environment(PORT=self.port, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.wait()

    def wait(self):
        for _ in range(1200):
            if self.process.poll() is not None:
                raise RuntimeError(self.process.stdout.read().decode())
            try:
                with urlopen(self.url + "/health/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the service did not become ready")

    def stop(self):
        self.process.terminate()
        try:
            return self.process.communicate(timeout=60)[0].decode()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="session")
def services(projects):
    "A running service for each recipe that ships"
    running = {name: Service(folder, MLSERVE_SERVE_DRAIN=0.1) for name, folder in projects.items()}
    yield running
    for service in running.values():
        service.stop()


@pytest.fixture(scope="session", params=EXAMPLES)
def service(request, services):
    return services[request.param]
