"The registry says what GTO and DVC say, and two who promote at once do not both win"

import json
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, date, datetime
from hashlib import md5
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlserve import registry
from mlserve.registry import (
    NoRepository,
    RegistryError,
    UnknownVersion,
    before,
    by_number,
    git,
    in_service,
    promote,
    read_events,
    register,
    released,
    rollback,
    served_on,
)
from mlserve.remote import Folder, ObjectDamaged, PointerMoved, StoreError
from mlserve.settings import Settings
from mlserve.store import object_path, pointer_path, read_pointer, write_pointer

GTO = Path(sys.executable).with_name("gto")
START = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp())


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


def repository(folder):
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (folder / "models").mkdir()
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "start")
    return Settings(root=folder)


def put(store, content):
    "A folder of one file as `dvc push` leaves it"
    name = md5(content, usedforsecurity=False).hexdigest()
    listing = json.dumps([{"md5": name, "relpath": "manifest.json"}], sort_keys=True).encode()
    folder = md5(listing, usedforsecurity=False).hexdigest() + ".dir"
    for key, data in ((name, content), (folder, listing)):
        (store.root / object_path(key)).parent.mkdir(parents=True, exist_ok=True)
        (store.root / object_path(key)).write_bytes(data)
    return folder


def release(project, name, version, store=None, now=None):
    folder = put(store, version.encode()) if store else f"{len(version):032x}.dir"
    text = f"outs:\n- md5: {folder}\n  hash: md5\n  path: {name}\n"
    (project.root / "models" / f"{name}.dvc").write_text(text)
    git(project.root, "add", "models")
    git(project.root, "commit", "-q", "--allow-empty", "-m", f"release {name} {version}")
    return register(project.root, name, version, {"Manifest-SHA256": "0" * 64}, now=now)


STEPS = st.one_of(
    st.tuples(st.just("release"), st.sampled_from(["census", "wine"]), st.sampled_from(["major", "minor", "patch"])),
    st.tuples(
        st.just("promote"), st.sampled_from(["census", "wine"]), st.integers(0, 9), st.sampled_from(["prod", "dev"])
    ),
    st.tuples(st.just("rollback"), st.sampled_from(["census", "wine"]), st.sampled_from(["prod", "dev"])),
)
CLOCKS = st.integers(-2, 3)  # seconds that pass; clocks also go back


def bumped(version, level):
    major, minor, patch = map(int, version.split("."))
    return {
        "major": f"{major + 1}.0.0",
        "minor": f"{major}.{minor + 1}.0",
        "patch": f"{major}.{minor}.{patch + 1}",
    }[level]


def walk(project, steps):
    "Do the steps, and return what must be so: (model, stage) -> version"
    expected, known, stacks, now = {}, {"census": [], "wine": []}, {}, START
    for step, passed in steps:
        now += passed
        kind, name = step[:2]
        if kind == "release":
            version = bumped(known[name][-1], step[2]) if known[name] else "1.0.0"
            release(project, name, version, now=now)
            known[name].append(version)
        elif kind == "promote" and known[name]:
            version, stage = known[name][step[2] % len(known[name])], step[3]
            promote(project, None, name, version, stage, now=now)
            stack = stacks.setdefault((name, stage), [])
            stack[:] = [*stack[: stack.index(version)], version] if version in stack else [*stack, version]
            expected[name, stage] = version
        elif kind == "rollback":
            stack = stacks.get((name, step[2]), [])
            if len(stack) < 2:
                with pytest.raises(UnknownVersion):
                    rollback(project, None, name, step[2], now=now)
            else:
                rollback(project, None, name, step[2], now=now)
                stack.pop()
                expected[name, step[2]] = stack[-1]
    return expected, known


def gto_says(root):
    "Model -> (versions, stage -> version) as `gto show` has it"
    import gto.api

    said = {}
    for name, state in gto.api.show(str(root)).items():
        versions = {v["version"].removeprefix("v") for v in gto.api.show(str(root), name)}
        said[name] = versions, {s: v.removeprefix("v") for s, v in state["stage"].items() if v}
    return said


def agree(project, expected, known):
    "What we say is what must be so, what `gto show` says, and where `dvc artifacts get` finds it"
    from dvc.repo import Repo

    gto = gto_says(project.root)
    with Repo(str(project.root)) as repo:
        for name, versions in known.items():
            agree_on(name, read_events(project.root, name), expected, versions, gto, repo.artifacts.get_rev)


def agree_on(name, events, expected, versions, gto, find):
    assert list(released(events)) == sorted(versions, key=by_number)
    ours = {stage: in_service(events, stage).version for n, stage in expected if n == name}
    assert ours == {stage: version for (n, stage), version in expected.items() if n == name}
    assert gto.get(name, (set(), {})) == (set(versions), ours)
    for stage in ours:
        assert find(name, stage=stage) == in_service(events, stage).commit
    for version in versions:
        assert find(name, version=f"v{version}") == released(events)[version].commit
    times = [e.time for e in events]
    counters = [e.counter for e in events if e.stage]
    assert times == sorted(set(times)) and counters == list(range(1, len(counters) + 1))


def check_walk(folder, steps):
    project = repository(folder)
    agree(project, *walk(project, steps))


@given(st.lists(st.tuples(STEPS, CLOCKS), min_size=4, max_size=9), st.uuids())
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
def test_gto_and_dvc_say_what_we_say(tmp_path_factory, steps, unique):
    check_walk(tmp_path_factory.mktemp("registry") / str(unique), steps)


@pytest.mark.slow
@given(st.lists(st.tuples(STEPS, CLOCKS), min_size=4, max_size=16), st.uuids())
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
def test_gto_and_dvc_say_what_we_say_over_longer_histories(tmp_path_factory, steps, unique):
    check_walk(tmp_path_factory.mktemp("registry") / str(unique), steps)


def test_more_than_nine_promotions_within_one_second(tmp_path):
    project = repository(tmp_path / "p")
    for version in ("1.0.0", "1.0.1"):
        release(project, "census", version, now=START)
    for number in range(11):
        promote(project, None, "census", f"1.0.{number % 2}", "prod", now=START)
    agree(project, {("census", "prod"): "1.0.0"}, {"census": ["1.0.0", "1.0.1"]})
    done = subprocess.run([GTO, "show"], cwd=project.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "census" in done.stdout, done.stderr


def test_what_other_tools_take_back_is_read_as_gto_reads_it(tmp_path):
    project = repository(tmp_path / "p")
    for version in ("1.0.0", "1.1.0"):
        release(project, "census", version, now=START)
        promote(project, None, "census", version, "prod", now=START)
    moment = {"GIT_COMMITTER_DATE": f"{START + 100} +0000"}
    git(project.root, "tag", "-am", "x", "census#prod!#3", "census@v1.1.0^{}", env=moment)
    git(project.root, "tag", "census#prod#9", "census@v1.1.0^{}")  # not annotated: does not count
    events = read_events(project.root)
    assert in_service(events, "prod").version == "1.0.0"
    assert gto_says(project.root)["census"][1] == {"prod": "1.0.0"}


def test_a_version_is_given_once_and_a_commit_carries_one(tmp_path):
    project = repository(tmp_path / "p")
    release(project, "census", "1.0.0")
    with pytest.raises(RegistryError, match=r"this commit is census@v1\.0\.0 already; commit something first"):
        register(project.root, "census", "1.0.1", {})
    with pytest.raises(RegistryError, match="never given twice"):
        release(project, "census", "1.0.0")
    register(project.root, "wine", "1.0.0", {})  # another model may stand on the same commit


def test_a_day_with_nothing_and_a_day_with_two(tmp_path):
    project = repository(tmp_path / "p")
    for number, now in enumerate((START + 60, START + 86_400 + 60)):
        release(project, "census", f"1.{number}.0", now=now)
        promote(project, None, "census", f"1.{number}.0", "prod", now=now + 10)
    events = read_events(project.root)
    on = {d: [e.version for e in served_on(events, "prod", date(2026, 3, d))] for d in (1, 2, 3, 4)}
    assert on == {1: [], 2: ["1.0.0"], 3: ["1.0.0", "1.1.0"], 4: ["1.1.0"]}


@pytest.fixture
def stored(tmp_path):
    project, store = repository(tmp_path / "p"), Folder(tmp_path / "store")
    for number in range(3):
        release(project, "census", f"1.{number}.0", store)
    return project, store


def test_the_pointer_follows_promotion_and_rollback(stored):
    project, store = stored
    assert promote(project, store, "census", "1.0.0", "prod").done == "promoted"
    assert promote(project, store, "census", "1.0.0", "prod").done == "unchanged"
    promote(project, store, "census", "1.2.0", "prod")
    assert rollback(project, store, "census", "prod").event.version == "1.0.0"
    pointer, event = read_pointer(store, "census", "prod"), in_service(read_events(project.root), "prod")
    assert (pointer.version, pointer.tag, pointer.counter) == ("1.0.0", event.tag, 3)
    assert pointer.time == event.when
    assert not (store.root / "files" / "mlserve").exists()


def test_a_version_with_a_damaged_object_is_not_promoted(stored):
    project, store = stored
    promote(project, store, "census", "1.0.0", "prod")
    path = store.root / object_path(md5(b"1.1.0", usedforsecurity=False).hexdigest())
    path.write_bytes(b"1.1.1")
    with pytest.raises(StoreError, match=r"manifest\.json of census@v1\.1\.0 is damaged"):
        promote(project, store, "census", "1.1.0", "prod")
    assert read_pointer(store, "census", "prod").version == "1.0.0"
    assert in_service(read_events(project.root), "prod").version == "1.0.0"


def hurt(pointer, **changes):
    return json.dumps(json.loads(pointer) | changes).encode()


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda pointer: pointer[:14],
        lambda pointer: hurt(pointer, md5="zz"),
        lambda pointer: hurt(pointer, counter="x"),
        lambda pointer: hurt(pointer, version=1),
    ],
    ids=["cut", "md5", "counter", "version"],
)
def test_a_pointer_that_cannot_be_read_is_written_anew(stored, version, damage):
    project, store = stored
    promote(project, store, "census", "1.0.0", "prod")
    file = store.root / pointer_path("census", "prod")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ObjectDamaged, match="promote the version again"):
        read_pointer(store, "census", "prod", tries=1)
    promote(project, store, "census", version, "prod")
    assert read_pointer(store, "census", "prod").version == version


def test_a_promotion_killed_between_pointer_and_tag_is_completed(stored, monkeypatch):
    project, store = stored
    promote(project, store, "census", "1.0.0", "prod")

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    added = registry._stage_tag
    monkeypatch.setattr(registry, "_stage_tag", kill)
    with pytest.raises(Killed):
        promote(project, store, "census", "1.1.0", "prod")
    monkeypatch.setattr(registry, "_stage_tag", added)
    assert read_pointer(store, "census", "prod").version == "1.1.0"
    with pytest.raises(RegistryError, match=r"`mlserve promote census@v1\.1\.0` ends it"):
        promote(project, store, "census", "1.2.0", "prod")
    assert promote(project, store, "census", "1.1.0", "prod").done == "completed"
    event = in_service(read_events(project.root), "prod")
    assert (event.version, event.tag, event.when) == (
        "1.1.0",
        "census#prod#2",
        read_pointer(store, "census", "prod").time,
    )


def test_a_tag_that_cannot_be_added_puts_the_pointer_back(stored, monkeypatch):
    project, store = stored
    promote(project, store, "census", "1.0.0", "prod")

    def fail(*_):
        raise RegistryError("git tag failed: no space left on device")

    added = registry._stage_tag
    monkeypatch.setattr(registry, "_stage_tag", fail)
    with pytest.raises(RegistryError, match="no space left"):
        promote(project, store, "census", "1.1.0", "prod")
    back = read_pointer(store, "census", "prod")
    assert (back.version, back.tag) == ("1.0.0", "census#prod#1")
    assert back.counter == 2  # who has seen 1.1.0 there goes back too
    monkeypatch.setattr(registry, "_stage_tag", added)
    assert promote(project, store, "census", "1.0.0", "prod").done == "unchanged"
    promote(project, store, "census", "1.2.0", "prod")
    pointer = read_pointer(store, "census", "prod")
    assert (pointer.version, pointer.counter) == ("1.2.0", 2)


def test_a_version_that_dvc_2_tracked_is_not_promoted(stored):
    project, store = stored
    path = project.root / "models" / "census.dvc"
    path.write_text(path.read_text().replace("  hash: md5\n", ""))
    git(project.root, "commit", "-qam", "as DVC 2 wrote it")
    register(project.root, "census", "2.0.0", {})
    with pytest.raises(RegistryError, match=r"census@v2\.0\.0 was tracked by DVC 2; release the model again"):
        promote(project, store, "census", "2.0.0", "prod")
    assert read_pointer(store, "census", "prod") is None


def test_a_tag_that_is_not_utf_8_harms_nobody(tmp_path):
    project = repository(tmp_path / "p")
    release(project, "census", "1.0.0")
    old = ["git", "tag", "--annotate", "--file=-", "caf\u00e9"]
    subprocess.run(old, cwd=project.root, input="caf\u00e9 au lait".encode("latin-1"), check=True)
    assert [event.version for event in read_events(project.root)] == ["1.0.0"]


def test_of_two_clones_that_promote_at_once_one_wins_and_one_is_told(stored, tmp_path, monkeypatch):
    project, store = stored
    git(tmp_path, "clone", "-q", str(project.root), "other")
    clones = [project, Settings(root=tmp_path / "other")]
    barrier, outcome = threading.Barrier(2), {}
    write = registry.write_pointer

    def together(*args):
        barrier.wait(timeout=20)
        write(*args)

    monkeypatch.setattr(registry, "write_pointer", together)

    def run(number):
        try:
            outcome[number] = promote(clones[number], store, "census", f"1.{number}.0", "prod").done
        except PointerMoved as error:
            outcome[number] = str(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = next(n for n, said in outcome.items() if said == "promoted")
    assert "somebody else has moved census#prod" in outcome[1 - winner]
    assert in_service(read_events(clones[winner].root), "prod").version == f"1.{winner}.0"
    assert in_service(read_events(clones[1 - winner].root), "prod") is None
    assert read_pointer(store, "census", "prod").version == f"1.{winner}.0"


def test_outside_a_repository_and_without_a_name(tmp_path, monkeypatch):
    with pytest.raises(NoRepository, match="run `git init`"):
        read_events(tmp_path)
    project = repository(tmp_path / "p")
    release(project, "census", "1.0.0")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{role}_NAME")
        monkeypatch.delenv(f"GIT_{role}_EMAIL")
    monkeypatch.setenv("HOME", str(tmp_path))
    git(project.root, "config", "user.useConfigOnly", "true")
    with pytest.raises(NoRepository, match=r"git config user\.name"):
        promote(project, None, "census", "1.0.0", "prod")


@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_rollbacks_never_return_to_what_a_rollback_left(promoted):
    events = [registry.Event(str(i), "m", v, "prod", i, "c", i, "") for i, v in enumerate(promoted)]
    target = before(events, "prod")
    if target:
        undone = [*events, registry.Event("r", "m", target, "prod", 99, "c", 99, "")]
        assert target != in_service(events, "prod").version
        assert before(undone, "prod") != in_service(events, "prod").version


def test_versions_sort_as_semver_says():
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "1.0.10", "1.2.0", "10.0.0"]
    assert sorted(reversed(ordered), key=by_number) == ordered


def test_a_promotion_that_was_cut_off_is_ended_only_with_the_bundle_that_it_promoted(tmp_path):
    project, store = repository(tmp_path / "project"), Folder(tmp_path / "store")
    release(project, "wine", "1.0.0", store)
    pointer = promote(project, store, "wine", "1.0.0", "prod") and read_pointer(store, "wine", "prod")
    git(project.root, "tag", "-d", "wine#prod#1")  # as if it had been cut off before its tag
    for other in (replace(pointer, md5="1" * 32 + ".dir"), replace(pointer, manifest="1" * 64)):
        write_pointer(store, other, read_pointer(store, "wine", "prod"))
        with pytest.raises(RegistryError, match=r"1\.0\.0 is another bundle than wine@v1\.0\.0 here"):
            promote(project, store, "wine", "1.0.0", "prod")
        assert git(project.root, "tag").split() == ["wine@v1.0.0"]
    write_pointer(store, pointer, read_pointer(store, "wine", "prod"))
    assert promote(project, store, "wine", "1.0.0", "prod").done == "completed"
