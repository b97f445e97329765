"What DVC pushes is read, what is released DVC pulls, and nothing damaged is ever used"

import http.server
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from hashlib import md5
from pathlib import Path

import pytest

from mlserve.bundle import BadBundle, Lineage, Manifest, NotWritten, read_bundle, write_bundle
from mlserve.contract import Contract, Output, infer_field, to_json
from mlserve.remote import (
    Cloud,
    ObjectDamaged,
    ObjectMissing,
    PointerMoved,
    Remote,
    StoreError,
    StoreRefused,
    StoreUnreachable,
    find_remote,
    open_store,
)
from mlserve.settings import Settings, Store
from mlserve.store import (
    Limits,
    Pointer,
    check_objects,
    fetch,
    list_folder,
    object_path,
    place,
    read_dvc,
    read_lock,
    read_pointer,
    write_pointer,
)
from tests.ceph import COMMANDS, serving
from tests.conftest import environment

ONCE = Limits(tries=1)


def bundle(folder, version="1.0.0"):
    contract = Contract((infer_field("age", [28, 38, 50]),), Output("regression", "hours", unit="h"))
    manifest = Manifest(
        "hours", version, "sklearn", Lineage("home:recipe", "d41d8", 3, 1, {}, 0, "1.0.0", {}), {"r2": 0.5}
    )
    files = {"contract.json": json.dumps(to_json(contract)).encode(), "plots/a.svg": b"<svg>\r\n" * 400}
    return write_bundle(folder, manifest, files)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def dvc(folder, *args, code=0, **env):
    home = {"HOME": str(folder.parent), "GIT_CONFIG_GLOBAL": "/dev/null", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        [Path(sys.executable).with_name("dvc"), *args],
        cwd=folder,
        env=environment(**home, **env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    return done.stdout


def dvc_project(folder, url, **options):
    (folder / ".dvc").mkdir(parents=True)
    lines = [
        "[core]",
        "    analytics = false",
        "    no_scm = true",
        "    remote = r",
        "['remote \"r\"']",
        f"    url = {url}",
    ]
    lines += [f"    {k} = {v}" for k, v in options.items()]
    (folder / ".dvc" / "config").write_text("\n".join(lines) + "\n")
    return Settings(root=folder)


class Quiet(http.server.SimpleHTTPRequestHandler):
    "A folder over HTTP, to be read and written"

    def log_message(self, *_):
        pass

    def do_PUT(self):
        path = Path(self.translate_path(self.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        length = self.headers.get("content-length")
        path.write_bytes(self.rfile.read(int(length)) if length else self._chunks())
        self.send_response(201)
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_PUT

    def _chunks(self):
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data


@pytest.fixture
def web(tmp_path):
    "A folder and its address"
    folder = tmp_path / "web"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def ceph(tmp_path_factory):
    "Address of an S3 server that checks signatures, and knows the same bucket"
    missing = [command for command in COMMANDS if not shutil.which(command)]
    if missing:
        pytest.skip(f"{', '.join(missing)} of Ceph not found; `make test-ceph` installs it on Debian, as root")
    with serving(tmp_path_factory.mktemp("ceph"), "key", "secret") as address:
        client(address).create_bucket(Bucket="models")
        yield address


def client(address):
    import boto3

    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=address, **keys)


@pytest.fixture(params=["folder", "http", "s3", pytest.param("ceph", marks=pytest.mark.ceph)])
def place_of(request, tmp_path):
    "(address as DVC writes it, options) of each kind of store"
    if request.param == "folder":
        return str(tmp_path / "remote"), {}
    if request.param == "http":
        return request.getfixturevalue("web")[1] + "/base", {"method": "PUT"}
    keys = {
        "endpointurl": request.getfixturevalue(request.param),
        "access_key_id": "key",
        "secret_access_key": "secret",
    }
    return f"s3://models/{tmp_path.name}", keys | {"region": "us-east-1"}


def test_what_dvc_pushes_is_read_and_what_was_read_dvc_knows(tmp_path, place_of):
    url, options = place_of
    settings = dvc_project(tmp_path / "p", url, **options)
    made = bundle(tmp_path / "p" / "models" / "hours")
    dvc(settings.root, "add", "-q", "models/hours")
    dvc(settings.root, "push", "-q")
    tracked = read_dvc((settings.root / "models" / "hours.dvc").read_text())
    store = open_store(find_remote(settings))
    assert set(check_objects(store, tracked).values()) == {"verified"}
    came = []
    fetched = fetch(store, tracked, tmp_path / "cache", tell=came.append)
    assert files(fetched.folder) == files(made.folder)
    assert sum(came) == sum(map(len, files(made.folder).values())) == tracked.size
    # put where DVC expects it, DVC finds nothing to do, and its own pull brings the same bytes
    shutil.rmtree(made.folder)
    place(fetched, made.folder)
    if "://" not in url:
        assert "up to date" in dvc(settings.root, "status")
    shutil.rmtree(made.folder)
    shutil.rmtree(settings.root / ".dvc" / "cache")
    dvc(settings.root, "pull", "-q")
    assert files(made.folder) == files(fetched.folder)
    pointer = Pointer("hours", "prod", "1.0.0", "hours#prod#1", tracked.md5, "0" * 64, 1, "2026-01-01T00:00:00Z")
    write_pointer(store, pointer, None)
    assert read_pointer(store, "hours", "prod") == pointer
    with pytest.raises(PointerMoved):
        write_pointer(store, pointer, None)


def test_a_dvc_2_remote_is_read(tmp_path):
    settings = dvc_project(tmp_path / "p", str(tmp_path / "remote"))
    made = bundle(tmp_path / "hours")
    listed = []
    for name, data in files(made.folder).items():
        key = md5(data.replace(b"\r\n", b"\n"), usedforsecurity=False).hexdigest()
        listed.append({"md5": key, "relpath": name})
        (tmp_path / "remote" / object_path(key, legacy=True)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "remote" / object_path(key, legacy=True)).write_bytes(data)
    data = json.dumps(listed, sort_keys=True).encode()
    key = md5(data, usedforsecurity=False).hexdigest() + ".dir"
    (tmp_path / "remote" / object_path(key, legacy=True)).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "remote" / object_path(key, legacy=True)).write_bytes(data)
    text = f"outs:\n- md5: {key}\n  path: hours\n"
    store = open_store(find_remote(settings))
    fetched = fetch(store, read_dvc(text), tmp_path / "cache", limits=ONCE)
    assert files(fetched.folder) == files(made.folder)
    assert set(check_objects(store, read_dvc(text)).values()) == {"verified"}
    plot = next(entry for entry in listed if entry["relpath"] == "plots/a.svg")
    damaged = tmp_path / "remote" / object_path(plot["md5"], legacy=True)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    assert check_objects(store, read_dvc(text)) == {
        "contract.json": "verified",
        "manifest.json": "verified",
        "plots/a.svg": "damaged",
    }
    damaged.write_bytes(whole)
    # DVC itself takes the same layout for its own
    (settings.root / "hours.dvc").write_text(text)
    dvc(settings.root, "pull", "-q")
    assert files(settings.root / "hours") == files(made.folder)


def pushed(tmp_path, version="1.0.0"):
    "A bundle in a folder store, without DVC"
    made = bundle(tmp_path / f"made-{version}" / "hours", version)
    listed, root = [], tmp_path / "remote"
    for name, data in files(made.folder).items():
        key = md5(data, usedforsecurity=False).hexdigest()
        listed.append({"md5": key, "relpath": name})
        (root / object_path(key)).parent.mkdir(parents=True, exist_ok=True)
        (root / object_path(key)).write_bytes(data)
    data = json.dumps(listed, sort_keys=True).encode()
    key = md5(data, usedforsecurity=False).hexdigest() + ".dir"
    (root / object_path(key)).parent.mkdir(parents=True, exist_ok=True)
    (root / object_path(key)).write_bytes(data)
    return made, root, read_dvc(f"outs:\n- md5: {key}\n  hash: md5\n  path: hours\n")


def test_a_flipped_byte_in_any_object_is_refused_and_the_older_model_stays(tmp_path):
    _, root, old = pushed(tmp_path)
    store, cache = open_store(Remote(str(root))), tmp_path / "cache"
    before = files(fetch(store, old, cache).folder)
    known = {p for p in root.rglob("*") if p.is_file()}
    _, _, new = pushed(tmp_path, "1.1.0")
    objects = [root / object_path(new.md5), *(root / object_path(e.md5) for e in list_folder(store, new))]
    assert len(objects) == 4 and len({*objects} - known) == 2
    for path in objects:
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(ObjectDamaged):
                fetch(store, new, cache, limits=ONCE)
            assert "damaged" in check_objects(store, new).values()
        path.unlink()
        with pytest.raises(ObjectMissing):
            fetch(store, new, cache, limits=ONCE)
        path.write_bytes(good)
    assert files(fetch(store, old, cache).folder) == before
    assert [p.name for p in cache.iterdir()] == [old.md5.removesuffix(".dir")]
    assert fetch(store, new, cache).manifest.version == "1.1.0"


def test_a_manifest_other_than_the_promoted_one_is_refused(tmp_path):
    _, root, tracked = pushed(tmp_path)
    store = open_store(Remote(str(root)))
    for _ in range(2):  # when it is fetched, and when it was there before
        with pytest.raises(BadBundle, match="not the one that was promoted"):
            fetch(store, tracked, tmp_path / "cache", manifest="0" * 64)
        fetch(store, tracked, tmp_path / "cache")


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "a\\..\\b", "a\0b", "", ".hidden"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, path):
    data = json.dumps([{"md5": "0" * 32, "relpath": path}]).encode()
    key = md5(data, usedforsecurity=False).hexdigest() + ".dir"
    (tmp_path / object_path(key)).parent.mkdir(parents=True)
    (tmp_path / object_path(key)).write_bytes(data)
    tracked = read_dvc(f"outs:\n- md5: {key}\n  hash: md5\n  path: hours\n")
    with pytest.raises(StoreError, match="which no bundle has"):
        fetch(open_store(Remote(str(tmp_path))), tracked, tmp_path / "cache", limits=ONCE)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_bundle_that_is_too_large_is_cut_off(tmp_path):
    _, root, tracked = pushed(tmp_path)
    with pytest.raises(StoreError, match="larger than limit_mb"):
        fetch(open_store(Remote(str(root))), tracked, tmp_path / "cache", limits=Limits(1000, 1))
    assert list((tmp_path / "cache").iterdir()) == []


class Failing(Quiet):
    "Fails in one way a number of times, then serves"

    left: tuple[int, str] = (0, "")

    def do_GET(self):
        left, how = type(self).left
        if not left:
            return super().do_GET()
        type(self).left = (left - 1, how)
        if how == "cut":
            self.send_response(200)
            self.send_header("content-length", "100000")
            self.end_headers()
            self.wfile.write(b"x")
            self.close_connection = True
            return None
        self.send_response(int(how))
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.mark.parametrize(("how", "kind"), [("503", None), ("429", None), ("cut", None), ("403", StoreRefused)])
def test_what_may_pass_is_tried_again_and_what_is_final_is_not(tmp_path, monkeypatch, how, kind):
    monkeypatch.setattr("mlserve.store.time.sleep", lambda seconds: None)
    _, root, tracked = pushed(tmp_path)
    handler = type("Handler", (Failing,), {"left": (2, how)})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=root))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        store = open_store(Remote(f"http://127.0.0.1:{server.server_port}"))
        if kind:
            with pytest.raises(kind):
                fetch(store, tracked, tmp_path / "cache")
            assert handler.left == (1, how)  # once
        else:
            assert fetch(store, tracked, tmp_path / "cache").manifest.version == "1.0.0"
            handler.left = (4, how)
            with pytest.raises(StoreUnreachable):
                fetch(store, tracked, tmp_path / "other")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _fetch(root, md5_, cache, start):
    start.wait()
    tracked = read_dvc(f"outs:\n- md5: {md5_}\n  hash: md5\n  path: hours\n")
    fetch(open_store(Remote(str(root))), tracked, cache)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_processes_that_fetch_at_once_all_get_the_bundle(tmp_path):
    _, root, tracked = pushed(tmp_path)
    spawn = multiprocessing.get_context("fork")
    start = spawn.Event()
    workers = [spawn.Process(target=_fetch, args=(root, tracked.md5, tmp_path / "cache", start)) for _ in range(6)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0] * 6
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [tracked.md5.removesuffix(".dir")]


def test_a_damaged_copy_is_fetched_anew(tmp_path):
    made, root, tracked = pushed(tmp_path)
    store, cache = open_store(Remote(str(root))), tmp_path / "cache"
    first = fetch(store, tracked, cache)
    (first.folder / "contract.json").write_text("{}")
    assert files(fetch(store, tracked, cache).folder) == files(made.folder)


def test_of_each_model_the_few_bundles_that_were_used_last_are_kept(tmp_path):
    cache, tracked = tmp_path / "cache", {}
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"):
        _, root, tracked[version] = pushed(tmp_path, version)
    store = open_store(Remote(str(root)))
    other = bundle(cache / "other")  # of another model
    write_bundle(other.folder, replace(other.manifest, name="days"), {f: other.read(f) for f in other.manifest.files})
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.0.0", "1.3.0"):
        fetch(store, tracked[version], cache)
    kept = {tracked[version].md5.removesuffix(".dir") for version in ("1.0.0", "1.2.0", "1.3.0")}
    assert {p.name for p in cache.iterdir()} == kept | {"other"}


def test_a_copy_that_was_cut_off_between_its_two_moves_loses_nothing(tmp_path, monkeypatch):
    made = bundle(tmp_path / "made")
    place(made, tmp_path / "models" / "hours")
    (tmp_path / "models" / "hours").rename(tmp_path / "models" / ".hours.old")  # killed there

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlserve.store.write_pieces", full)
        with pytest.raises(OSError, match="No space"):
            place(made, tmp_path / "models" / "hours")
    assert files(tmp_path / "models" / "hours") == files(made.folder)


def test_a_bundle_that_found_no_room_takes_none(tmp_path, monkeypatch):
    made = bundle(tmp_path / "made")

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlserve.bundle.os.fsync", full)
        with pytest.raises(NotWritten, match="No space left on device"):
            write_bundle(tmp_path / "hours", made.manifest, {f: made.read(f) for f in made.manifest.files})
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("text", ["stages: {a: 1}", "stages: {a: {outs: [1]}}", "stages: [1]", "[]", "outs: 1", "1"])
def test_a_lock_of_another_shape_is_said_to_be_one(text):
    with pytest.raises(StoreError, match=r"dvc\.lock .*`dvc repro`"):
        read_lock(text, "models/census")


def test_what_comes_twice_is_told_once(tmp_path, monkeypatch):
    made, root, tracked = pushed(tmp_path)
    store, told, broken = open_store(Remote(str(root))), [], []

    class Breaking:
        def pieces(self, path):
            yield from store.pieces(path)
            if path not in broken:
                broken.append(path)
                raise StoreUnreachable("it broke off")

    monkeypatch.setattr("mlserve.store._tried.__defaults__", (0.001,))
    fetch(Breaking(), tracked, tmp_path / "cache", tell=told.append)
    assert sum(told) == sum(map(len, files(made.folder).values()))


def test_placing_a_bundle_replaces_the_one_that_stood_there(tmp_path):
    _, root, tracked = pushed(tmp_path, "2.0.0")
    target = bundle(tmp_path / "models" / "hours").folder
    place(fetch(open_store(Remote(str(root))), tracked, tmp_path / "cache"), target)
    assert read_bundle(target).manifest.version == "2.0.0"
    assert [p.name for p in target.parent.iterdir()] == ["hours"]


def test_one_file_and_a_stage_of_the_lock(tmp_path):
    text = (
        "schema: '2.0'\nstages:\n  s:\n    cmd: x\n    outs:\n    - path: data/a\n      hash: md5\n"
        "      md5: 0cc175b9c0f1b6a831c399e269772661\n      size: 1\n"
    )
    store = open_store(Remote(str(tmp_path)))
    assert read_lock(text, "data/a").md5 == "0cc175b9c0f1b6a831c399e269772661"
    with pytest.raises(StoreError, match="knows no data/b"):
        read_lock(text, "data/b")
    with pytest.raises(StoreError, match="one file, not a bundle"):
        fetch(store, read_lock(text, "data/a"), tmp_path / "cache")


@pytest.mark.parametrize(
    "text", ["", "outs: 3", "outs: []", "a: [", "outs:\n- path: x\n", "outs:\n- md5: zz\n  path: x\n", "outs:\n- 3\n"]
)
def test_dvc_files_that_say_nothing_usable(text):
    with pytest.raises(StoreError):
        read_dvc(text)


def test_remotes_that_cannot_be_used(tmp_path):
    with pytest.raises(StoreError, match="no store is set"):
        find_remote(Settings(root=tmp_path))
    with pytest.raises(StoreError, match="version_aware"):
        find_remote(dvc_project(tmp_path / "p", "s3://b", version_aware="true"))
    with pytest.raises(StoreError, match="ssh:// is not read here"):
        open_store(Remote("ssh://host/path"))
    assert find_remote(Settings(root=tmp_path, store=Store(url="there"))).url == str(tmp_path / "there")
    assert "secret" not in repr(Remote("s3://b", {"secret_access_key": "secret"}))


@pytest.mark.parametrize(
    ("own", "other", "kept"),
    [
        ("s3://mine", "s3://mine", True),
        ("s3://mine", "s3://another", True),  # they sign, and are not sent
        ("https://models.example/a", "https://models.example/b", True),
        ("https://models.example/a", "https://elsewhere.example/a", False),
        ("https://models.example/a", "http://models.example/a", False),
        ("s3://mine", "https://elsewhere.example", False),
        ("s3://mine", "folder", False),
    ],
)
def test_keys_of_one_store_are_not_sent_to_another(tmp_path, own, other, kept):
    project = dvc_project(tmp_path / "p", own, password="secret")
    remote = find_remote(replace(project, store=replace(project.store, url=other)))
    assert ("password" in remote.options) == kept


def test_keys_come_from_options_environment_or_the_file(tmp_path, monkeypatch):
    from mlserve.remote import _aws_keys, _s3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = d\n[team]\naws_access_key_id = t\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert _aws_keys({}) == {"access_key_id": "d"}
    assert _aws_keys({"profile": "team"}) == {"access_key_id": "t"}
    assert _aws_keys({"access_key_id": "o"}) == {"access_key_id": "o"}
    assert _s3({"allow_anonymous_login": "true"}) == {"region": "us-east-1", "skip_signature": True}
    with pytest.raises(StoreRefused, match="no profile nobody"):
        _aws_keys({"profile": "nobody"})
    for broken in (b"[default]\n[default]\naws_access_key_id = d\n", b"aws_access_key_id = d\n", b"\xff"):
        (tmp_path / "credentials").write_bytes(broken)
        with pytest.raises(StoreRefused, match="not as `aws configure` writes it"):
            _aws_keys({})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "e")
    assert _aws_keys({}) == {}


KEY = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/a"


@pytest.mark.parametrize(
    ("url", "options", "kind", "config"),
    [
        ("azure://c/x", {"account_name": "a", "account_key": "a2V5"}, "AzureStore", {"account_name": "a"}),
        ("az://c/x", {"connection_string": KEY}, "AzureStore", {"endpoint": "http://127.0.0.1:1/a"}),
        ("azure://c", {"connection_string": "AccountName=a;SharedAccessSignature=sv=1&sig=x=="}, "AzureStore", {}),
        ("azure://c", {"account_name": "a", "allow_anonymous_login": "true"}, "AzureStore", {"skip_signature": "true"}),
        ("gs://b/x", {"allow_anonymous_login": "true"}, "GCSStore", {"skip_signature": "true"}),
        ("gs://b/x", {"endpointurl": "http://127.0.0.1:1"}, "GCSStore", {"base_url": "http://127.0.0.1:1"}),
    ],
)
def test_google_and_azure_stores_are_opened_as_dvc_sets_them(tmp_path, url, options, kind, config):
    opened = open_store(find_remote(dvc_project(tmp_path / "p", url, **options))).store
    assert type(opened).__name__ == kind
    assert {name: opened.config[name] for name in config} == config


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("gs://b/x", {"credentialpath": "/nowhere/key.json"}),
        ("azure://c/x", {"account_name": "a", "account_key": "not base64!"}),
        ("s3://", {}),
        ("https://", {}),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_sentence(url, options):
    with pytest.raises(StoreError, match=r"^the store at \w+:// cannot be opened as it is set; correct"):
        open_store(Remote(url, options))


def test_a_put_whose_answer_is_lost_has_happened_or_not(s3, tmp_path, monkeypatch):
    options = {"endpointurl": s3, "access_key_id": "key", "secret_access_key": "secret"}
    store, put = open_store(Remote(f"s3://models/{tmp_path.name}", options)), Cloud._put

    def lost(who, written):
        def then(self, path, data, mode):
            if written:
                put(self, path, written, mode)
            raise StoreUnreachable(f"{who} hears nothing")

        return then

    with monkeypatch.context() as patch:
        patch.setattr(Cloud, "_put", lost("the first", b"1"))
        store.swap("p", b"1", lambda now: now is None)
        patch.setattr(Cloud, "_put", lost("the second", b"2"))
        with pytest.raises(PointerMoved):
            store.swap("p", b"3", lambda now: now == b"1")
        patch.setattr(Cloud, "_put", lost("the third", b""))
        with pytest.raises(StoreUnreachable):
            store.swap("p", b"3", lambda now: now == b"2")
    store.swap("p", b"3", lambda now: now == b"2")
    assert b"".join(store.pieces("p")) == b"3"


# -- an S3 server that checks signatures and conditions


@pytest.fixture
def bucket(ceph, tmp_path):
    "(a folder of it, options)"
    options = {"endpointurl": ceph, "access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    return f"s3://models/{tmp_path.name}", options


@pytest.mark.ceph
def test_who_may_not_enter_is_told_why(bucket):
    url, options = bucket
    wrong = {
        "SignatureDoesNotMatch": options | {"secret_access_key": "guessed"},
        "InvalidAccessKeyId": options | {"access_key_id": "nobody"},
        "AccessDenied": {"endpointurl": options["endpointurl"], "allow_anonymous_login": "true"},
    }
    for why, given in wrong.items():
        with pytest.raises(StoreRefused, match=rf"refuses files/a \({why}\); check its credentials"):
            list(open_store(Remote(url, given)).pieces("files/a"))
    with pytest.raises(StoreRefused, match="no such bucket"):
        list(open_store(Remote("s3://nowhere/x", options)).pieces("files/a"))


@pytest.mark.ceph
def test_a_flipped_byte_in_any_object_of_a_bucket_is_refused(bucket, ceph, tmp_path):
    url, options = bucket
    settings, tracked = dvc_project(tmp_path / "p", url, **options), {}
    for version in ("1.0.0", "1.1.0"):
        bundle(settings.root / "models" / "hours", version)
        dvc(settings.root, "add", "-q", "models/hours")
        dvc(settings.root, "push", "-q")
        tracked[version] = read_dvc((settings.root / "models" / "hours.dvc").read_text())
    store, cache, s3 = open_store(find_remote(settings)), tmp_path / "cache", client(ceph)
    before, new = files(fetch(store, tracked["1.0.0"], cache).folder), tracked["1.1.0"]
    for name in (new.md5, *(entry.md5 for entry in list_folder(store, new))):
        at = {"Bucket": "models", "Key": f"{tmp_path.name}/{object_path(name)}"}
        good = s3.get_object(**at)["Body"].read()
        s3.put_object(**at, Body=good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(ObjectDamaged):
            fetch(store, new, cache, limits=ONCE)
        s3.put_object(**at, Body=good)
    assert [p.name for p in cache.iterdir()] == [tracked["1.0.0"].md5.removesuffix(".dir")]
    assert files(fetch(store, tracked["1.0.0"], cache).folder) == before
    assert fetch(store, new, cache).manifest.version == "1.1.0"


@pytest.mark.ceph
@pytest.mark.parametrize("first", [True, False])
def test_of_eight_who_move_a_pointer_at_once_one_wins_and_seven_are_told(bucket, first):
    url, options = bucket
    old = Pointer("hours", "prod", "1.0.0", "hours#prod#1", "0" * 32 + ".dir", "0" * 64, 1, "2026-01-01T00:00:00Z")
    was, barrier, outcome = (None if first else old), threading.Barrier(8), {}
    if was:
        write_pointer(open_store(Remote(url, options)), was, None)

    def move(number):
        store, mine = open_store(Remote(url, options)), replace(old, version=f"2.{number}.0")
        barrier.wait(timeout=20)
        try:
            write_pointer(store, mine, was)
            outcome[number] = "won"
        except PointerMoved:
            outcome[number] = "told"

    threads = [threading.Thread(target=move, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.values()) == ["told"] * 7 + ["won"]
    winner = next(number for number, said in outcome.items() if said == "won")
    assert read_pointer(open_store(Remote(url, options)), "hours", "prod").version == f"2.{winner}.0"
