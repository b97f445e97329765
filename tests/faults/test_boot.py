"A dyno into whose slug no model was baked, as the course deploys: DYNO, the keys of the store, and DVC's files"

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from mlserve.bundle import NoBundle
from mlserve.follow import first_model
from mlserve.remote import Remote, StoreError, StoreUnreachable, open_store
from mlserve.settings import BadSettings, load_settings
from mlserve.slug import bake
from tests.conftest import environment, free_port
from tests.faults.shop import Shop, rate_of

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    yield made
    made.hangs.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def project(tmp_path):
    "What a slug holds of a project that never baked a model"
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "settings.ini").write_text("")
    shutil.copy(ROOT / "main.py", folder)
    return folder


def track(project, pointer):
    "The file that `dvc add models/pay` leaves"
    told = f"outs:\n- md5: {pointer.md5}\n  size: 1\n  nfiles: 4\n  hash: md5\n  path: pay\n"
    (project / "models" / "pay.dvc").write_text(told)


def remote(project, url, **options):
    lines = ["[core]", "remote = r", "['remote \"r\"']", f"url = {url}", *(f"{k} = {v}" for k, v in options.items())]
    (project / ".dvc" / "config").write_text("\n".join(lines) + "\n")


def settings_of(project, **environ):
    return load_settings(project, environ={"DYNO": "web.1", "MLSERVE_STORE_TRIES": "1", **environ})


def upload(shop, url, endpoint):
    "Copy a store to S3"
    options = {"endpointurl": endpoint, "access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    cloud = open_store(Remote(url, options))
    for file in shop.folder.root.rglob("*"):
        if file.is_file():
            cloud.swap(str(file.relative_to(shop.folder.root)), file.read_bytes(), lambda now: True)


def test_a_dyno_with_keys_fetches_its_model_from_s3(project, shop, s3, tmp_path):
    pointer = shop.release("1.2.0")
    shop.promote(pointer)
    track(project, shop.release("1.3.0"))  # released, not in service
    url = f"s3://models/{tmp_path.name}"
    upload(shop, url, s3)
    remote(project, url, endpointurl=s3)
    port = free_port()
    env = environment(PORT=port, DYNO="web.1", WEB_CONCURRENCY=2, MLSERVE_SERVE_DRAIN=0.1, PYTHONPATH=ROOT, **KEYS)
    command = [Path(sys.executable).with_name("uvicorn"), "main:app"]
    process = subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.PIPE, text=True)
    try:
        told = ready(process, port)
        assert (told["model"], told["version"]) == ("pay", "1.2.0") and "faults" not in told
        until = time.monotonic() + 60
        while list((project / "cache").glob(".*.part")) and time.monotonic() < until:
            time.sleep(0.05)  # the other worker is still fetching
        assert [p.name for p in (project / "cache").iterdir()] == [pointer.md5.removesuffix(".dir")]
        assert not list((project / "models").glob("*/manifest.json"))
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert "Traceback" not in said


def ready(process, port):
    "What a service says when it is ready"
    last = time.monotonic() + 120
    while time.monotonic() < last:
        assert process.poll() is None, process.stderr.read()
        try:
            with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("it did not become ready")


def test_a_model_that_stands_here_is_served_and_nothing_is_asked_for(project, shop):
    remote(project, "http://127.0.0.1:9")
    made = shop.release("1.1.0")
    shutil.copytree(shop.scratch / "1.1.0", project / "models" / "pay")
    begun = first_model(settings_of(project), dyno=True)
    assert begun.model.version == made.version and not begun.fault


def test_a_baked_model_answers_where_the_engine_of_the_one_in_service_is_not_installed(project, shop, monkeypatch):
    remote(project, shop.url)
    shop.release("1.1.0")
    shutil.copytree(shop.scratch / "1.1.0", project / "models" / "pay")
    shop.promote(shop.release("1.2.0", "other engine"))
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    begun = first_model(settings_of(project, MLSERVE_FOLLOW_EVERY="15"), dyno=True)
    assert begun.model.version == "1.1.0"
    assert begun.fault == "the model in the store cannot be loaded; release it again"


def test_what_is_in_service_or_tracked_is_fetched_and_baked(project, shop):
    remote(project, shop.url)
    first, second = shop.release("1.1.0"), shop.release("1.2.0")
    track(project, first)
    settings = settings_of(project)
    begun = first_model(settings, dyno=True)
    assert begun.model.version == "1.1.0" and begun.pointer is None
    shop.promote(second)
    begun = first_model(settings, dyno=True)
    assert begun.model.version == "1.2.0" and begun.pointer.md5 == second.md5
    assert begun.model.score([{"age": 30}])[0].value == 30 * rate_of("1.2.0")
    with pytest.raises(NoBundle):  # elsewhere than on a dyno a model stands in its folder, or `--follow` is given
        first_model(settings)
    assert bake(settings).manifest.version == "1.2.0"


def test_a_pipeline_that_makes_the_served_folder_is_enough(project, shop):
    remote(project, shop.url)
    made = shop.release("1.4.0")
    out = f"    - {{path: models/pay, hash: md5, md5: {made.md5}, size: 1}}\n"
    (project / "dvc.lock").write_text("schema: '2.0'\nstages:\n  train:\n    cmd: mlserve train\n    outs:\n" + out)
    settings = settings_of(project, MLSERVE_MODEL_NAME="pay")
    assert first_model(settings, dyno=True).model.version == "1.4.0"
    assert bake(settings).folder == project / "models" / "pay"


@pytest.mark.parametrize(
    ("what", "kind", "sentence"),
    [
        ("no store", NoBundle, r"^there is no model.*None can be fetched either: no store is set; run `dvc remote add"),
        ("nothing pushed", StoreError, r"^no model stands here, and none came: the store has no files/md5"),
        ("nothing tracked", StoreError, "nothing was promoted to prod; run `mlserve promote`, or bake a model"),
        ("damaged", StoreError, r"none came: files/md5/.* in the store is damaged; run `dvc push`"),
        ("away", StoreUnreachable, "none came: the store does not answer.*check the network"),
        ("hangs", StoreUnreachable, "none came: the store does not answer"),
        ("which", BadSettings, "models holds pay, rent; set MLSERVE_MODEL_NAME to one of them"),
        ("nobody knows", NoBundle, "nothing says which one of the store is meant; .*MLSERVE_MODEL_NAME names one"),
        ("broken slug", NoBundle, "manifest cannot be read; .*None can be fetched either: no store is set"),
    ],
)
def test_a_dyno_without_a_model_says_why_in_one_sentence(project, shop, what, kind, sentence):
    remote(project, "http://127.0.0.1:9" if what == "away" else shop.url)
    environ = {"MLSERVE_MODEL_NAME": "pay"}
    pointer = shop.release("1.1.0", "corrupt" if what == "damaged" else "")
    if what != "nothing tracked":
        track(project, pointer)
    match what:
        case "no store" | "broken slug":
            (project / ".dvc" / "config").unlink()
        case "nothing pushed":
            shutil.rmtree(shop.folder.root / "files")
        case "hangs":
            shop.hangs.clear()
            environ["MLSERVE_STORE_WAIT"] = "0.3"
        case "which":
            (project / "models" / "rent.dvc").write_text("")
            environ.pop("MLSERVE_MODEL_NAME")
        case "nobody knows":
            (project / "models" / "pay.dvc").unlink()
            environ.pop("MLSERVE_MODEL_NAME")
    if what == "broken slug":
        (project / "models" / "pay").mkdir()
        (project / "models" / "pay" / "manifest.json").write_text("{")
    with pytest.raises(kind, match=sentence) as told:
        first_model(settings_of(project, **environ), dyno=True)
    assert "\n" not in str(told.value) and str(project) not in str(told.value)


def test_keys_that_are_missing_are_named(project, s3, monkeypatch):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    remote(project, "s3://no-such-bucket/x", endpointurl="http://127.0.0.1:9")
    settings = settings_of(project, MLSERVE_MODEL_NAME="pay", MLSERVE_STORE_WAIT="1")
    with pytest.raises(StoreError, match=r"; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY$"):
        first_model(settings, dyno=True)


@pytest.mark.parametrize("command", [["uvicorn", "main:app"], ["mlserve", "serve"]], ids=["uvicorn", "mlserve"])
def test_a_server_that_cannot_start_ends_with_one_sentence(project, command):
    env = environment(PORT=free_port(), DYNO="web.1", MLSERVE_MODEL_NAME="pay", PYTHONPATH=ROOT)
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], cwd=project, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 7
    assert re.fullmatch(r"(no key is set, .*\n)?", done.stdout)  # said before anything is tried
    assert re.fullmatch(r"(mlserve: )?there is no model pay in models; .*no store is set; .*\n", done.stderr)
