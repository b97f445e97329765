"`mlserve new`: what it decides, what it writes, what it refuses; and, slowly, whole projects from the first command on"

import ast
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from mlserve import scaffold
from mlserve.bundle import read_bundle
from mlserve.cli import app as cli
from mlserve.data import BadData, frame_of_rows
from mlserve.infer import propose
from mlserve.persist import load_pipeline
from mlserve.scaffold import CannotScaffold, create
from mlserve.source import Source, _separator, look, read_source
from tests.conftest import MLSERVE, Service, environment, mlserve
from tests.new_data import TABLES, UGLY

ROOT = Path(__file__).resolve().parent.parent


# What is decided


@pytest.mark.parametrize("name", TABLES)
def test_the_task_is_found(name, tmp_path):
    path, target, task = TABLES[name](tmp_path)
    assert propose(path, target).task == task


def test_a_loan_is_not_judged_by_its_number_nor_by_what_came_of_it(tmp_path):
    path, target, _ = TABLES["loans"](tmp_path)
    p = propose(path, target)
    assert set(p.left_out) == {"loan_id", "recovered"}
    assert (p.numbers, p.categories, p.many) == (("income", "amount", "years_employed"), ("purpose",), ("branch",))
    assert p.too_rare == ("dispute",) and "N/A" in p.source.missing
    assert {d.about for d in p.decisions if d.decided == "may be missing"} == {"income", "purpose", "years_employed"}


def test_a_european_file_is_read_as_it_was_meant(tmp_path):
    path, target, _ = TABLES["flats"](tmp_path)
    p = propose(path, target)
    assert (p.source.encoding, p.source.separator, p.source.decimal) == ("cp1252", ";", ",")
    assert p.source.dates == {"Verkauft": "%d.%m.%Y"}
    assert p.dates == ("Verkauft",) and set(p.numbers) == {"Fläche", "Zimmer"}


def test_names_stay_as_they_are_but_for_the_spaces_around_them(tmp_path):
    path, target, _ = TABLES["ugly_names"](tmp_path)
    p = propose(path, target)
    assert set(p.features) == {name.strip() for name in UGLY} - {target}
    assert p.positive == "Yes ✓"


def test_the_numbers_of_the_rows_need_no_name(tmp_path):
    pd.DataFrame({"a": [1, 2, 3] * 20, "y": [0.5, 1.5] * 30}).to_csv(tmp_path / "t.csv")
    assert set(propose(tmp_path / "t.csv", "y").left_out) == {"Unnamed: 0"}


def test_thousands_that_are_parted_are_called_so(tmp_path):
    rows = {"a": [f"{7.5 * k:,}" for k in range(100, 200)], "b": [f"{k % 9},{k + 100}" for k in range(100)]}
    pd.DataFrame(rows | {"x": [1, 2, 3, 4] * 25, "y": [0.5, 1.5] * 50}).to_csv(tmp_path / "t.csv", index=False)
    left = propose(tmp_path / "t.csv", "y").left_out
    assert left["a"] == "it holds numbers whose thousands are parted; write them without"
    assert "thousands" not in left["b"]  # of which some are 0,109


def test_parquet_keeps_its_kinds(tmp_path):
    path, target, _ = TABLES["visits"](tmp_path)
    p = propose(path, target)
    assert p.numbers == ("age", "score", "urgent") and p.categories == ("smoker", "ward")
    assert set(p.left_out) == {"stay"} and p.positive is True


def test_a_line_may_be_as_long_as_it_likes(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text(f"{','.join(f'x{k}' for k in range(30_000))}\n{'1,' * 29_999}1\n")
    assert _separator(path, "utf-8") == ","
    path.write_text(f"story,x\n{'y' * 140_000},1\n")
    assert look(path)[1].shape == (1, 2)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_data_that_is_not_there_is_missed_in_its_folder(name, tmp_path):
    source = Source(parquet=name.endswith("parquet"))
    with pytest.raises(BadData, match=f"no file {name} in the folder nope; .*set folder in \\[data\\]"):
        read_source(tmp_path / "nope" / name, source)


# What is refused: one sentence, and nothing left behind


def table(**columns):
    return pd.DataFrame({"x": [k % 7 / 2 for k in range(100)]} | columns).to_csv(index=False)


BAD = {
    "no such column": (table(y=["a", "b"] * 50), "z", "has no column z"),
    "empty": ("", "y", "is empty"),
    "only blank lines": ("\ufeff" + "\n" * 25, "y", "is empty"),
    "only a header": ("x,y\n", "y", "missing in every row"),
    "one class": (table(y=["a"] * 100), "y", "nothing to tell apart"),
    "one quantity": (table(y=[1.5] * 100), "y", "is 1.5 in every row; there is nothing to tell apart"),
    "thousands": (table(y=[f"{1000 + k:,}" for k in range(100)]), "y", "y holds numbers whose thousands are parted;"),
    "target all missing": (table(y=[""] * 100), "y", "missing in every row"),
    "no table": ("Dear reader\n\nThis is a letter.\n", "y", "is no CSV"),
    "bytes": (b"\x89PNG\r\n\x1a\n\0\0\0", "y", "is no CSV"),
    "longer rows than header": ("x,y\n1,2,3\n4,5,6\n", "y", "is no CSV"),
    "one name twice": ("y,b,c,y\n" + "1,2,3,4\n" * 60, "y", "more than one column y;"),
    "no name": ("a,,y,\n" + "1,2,3,\n" * 60, "y", "no name for its columns 2, 4;"),
    "no name in front": (",a,y\n" + "x,2,3\n" * 60, "y", "no name for its column 1;"),
    "few rows": ("x,y\n" + "1,a\n2,b\n" * 10, "y", "has 20 rows"),
    "two rows of a class": (table(y=["a"] * 98 + ["b"] * 2), "y", "2 rows of 'b'"),
    "a name in each row": (table(y=[f"person {k}" for k in range(100)]), "y", "100 different texts"),
    "nothing to learn from": (table(y=["a", "b"] * 50).replace("x,y", "y,z"), "z", ""),
    "only the target": ("y\n" + "a\nb\n" * 50, "y", "is no CSV"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_learnt_is_refused_in_a_sentence(case, tmp_path):
    content, target, said = BAD[case]
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if case == "nothing to learn from":
        path.write_text("y,z\n" + "".join(f"1,{k % 2}\n" for k in range(100)))
        said = "has no column to predict z from"
    with pytest.raises(BadData, match=re.escape(said)) as refused:
        create("rivers", path, target, tmp_path, pinned=False)
    assert "\n" not in str(refused.value) and str(tmp_path) not in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    "name", ["1st", "two words", "class", "Rivers", "json", "pandas", "tests", "mlserve", "", "../up"]
)
def test_a_name_that_is_no_package_is_refused(name, tmp_path):
    with pytest.raises(CannotScaffold):
        create(name, tmp_path / "none.csv", "y", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "rivers").mkdir()
    with pytest.raises(CannotScaffold, match="already something called rivers"):
        create("rivers", tmp_path / "none.csv", "y", tmp_path)


def test_the_command_asks_for_what_it_needs_and_says_what_is_wrong(tmp_path):
    for args, said in (
        ((), "needs a name"),
        (("rivers",), "needs --data FILE"),
        (("rivers", "--data", "no.csv"), "there is no file no.csv"),
        (
            ("rivers", "--data", str(ROOT / "mlserve/data/adult.parquet")),
            "needs --target COLUMN, the column to predict; the columns are age, ",
        ),
        (("--update",), "there is no .mlserve.json here"),
    ):
        done = mlserve(tmp_path, "new", *args)
        assert done.returncode and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


ROWS = pd.DataFrame({
    "age": [30 + k % 40 for k in range(100)],
    "job title": ["baker", "clerk"] * 50,
    "seen on": [f"2026-01-{1 + k % 28:02}" for k in range(100)],
    "nothing": [None] * 100,
    "income": [1000.5 + k for k in range(100)],
})  # fmt: skip


@pytest.fixture
def asked(tmp_path, monkeypatch):
    "`mlserve new people` with a person at the terminal; gives what was seen, and what a project was to be made for"
    made = []
    ROWS.to_csv(tmp_path / "people.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlserve.cli._somebody_is_there", lambda: True)
    monkeypatch.setattr("mlserve.scaffold.create", lambda name, path, target, *more: made.append(target) or sys.exit(0))

    def ask(*args, answers=""):
        done = CliRunner().invoke(cli, ["new", "people", "--data", "people.csv", *args], input=answers)
        return done, made

    return ask


def test_who_is_asked_for_the_target_sees_the_columns(asked):
    done, made = asked(answers="income\n")
    shown = [line.split("  ") for line in done.output.splitlines()]
    told = [[part.strip() for part in line if part] for line in shown]
    assert ["age", "integer", "46"] in told and ["job title", "category", "baker"] in told
    assert ["seen on", "date", "2026-01-13"] in told and ["nothing", "empty"] in told
    assert made == ["income"]


def test_a_target_that_is_nearly_right_is_asked_for_again(asked):
    done, made = asked(answers="Incom\nincome\n")
    assert done.output.count("Column to predict") == 2 and made == ["income"]
    assert "there is no column Incom; did you mean income? the columns are age, job title, seen on" in done.output


def test_a_target_that_is_given_wrongly_is_refused_in_a_sentence(asked):
    done, made = asked("--target", "Job_Title")
    assert done.exit_code == 2 and made == [] and "did you mean job title?" in done.output
    done, made = asked("--target", "weight", "--json")
    assert made == [] and json.loads(done.stdout)["error"] == "cannot_scaffold" and "did you mean" not in done.output


# What is written, for every mixture of columns


def cells_of(text, exported):
    "The code of a notebook that is still text; what is exported, or all of it"
    cells = [
        cell.partition("\n")[2] for cell in re.split(r"^# %%", text, flags=re.MULTILINE) if "[markdown]" not in cell
    ]
    return "\n\n".join(c for c in cells if not exported or c.startswith("#| export"))


def test_no_mixture_of_columns_leaves_something_unused_or_unknown(tmp_path):
    kinds = ("numbers", "categories", "many", "dates")
    template = scaffold._templates()["nbs/00_model.py"].read_text(encoding="utf-8")
    (tmp_path / "data").mkdir()
    for name in ("flats", "visits", "sensors"):
        path, target, _ = TABLES[name](tmp_path / "data")
        found = propose(path, target)
        for mixture in range(1, 16):
            given = {kind: ("a", "b") if mixture >> k & 1 else () for k, kind in enumerate(kinds)}
            told = scaffold._about(name, replace(found, **given), path)
            made = scaffold.render(template, told)
            for exported in (True, False):
                code = tmp_path / f"{name}_{mixture}_{'module' if exported else 'notebook'}.py"
                code.write_text(cells_of(made, exported), encoding="utf-8")
    done = subprocess.run(
        [MLSERVE.with_name("ruff"), "check", "--no-cache", "--isolated", "--select", "F", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and len(list(tmp_path.glob("*.py"))) == 90, done.stdout


# Two whole projects, without what takes the network


PAIR = ("flats", "visits")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, projects = tmp_path_factory.mktemp("new"), {}
    for name in PAIR:
        path, target, _ = TABLES[name](folder)
        if path.suffix == ".csv":  # some of its rows are enough here
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:501]))
        projects[name] = create(name, path, target, folder, pinned=False)
    return projects


def run(project, *command, cwd=None):
    env = environment(PYTHONPATH=cwd or project.folder, PATH=f"{MLSERVE.parent}:/usr/bin:/bin", OMP_NUM_THREADS=1)
    env |= {f"GIT_{who}_{key}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    done = subprocess.run(command, cwd=cwd or project.folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_site_of_a_new_project_is_built_without_a_warning(made, tmp_path):
    copy = shutil.copytree(made[PAIR[0]].folder, tmp_path / PAIR[0])
    run(made[PAIR[0]], "sphinx-build", "-q", "-W", "docs", tmp_path / "site", cwd=copy)
    assert list(tmp_path.glob("site/guide/*.html"))


@pytest.mark.parametrize("name", PAIR)
def test_export_and_lint_find_nothing_to_do(made, name):
    assert made[name].notes == ()
    run(made[name], "python", ".ci/check_export.py")
    run(made[name], "ruff", "format", "--no-cache", "--check", ".")
    run(made[name], "ruff", "check", "--no-cache", ".")
    run(made[name], "flake8", ".")


@pytest.mark.parametrize("name", PAIR)
def test_nothing_of_the_library_is_copied(made, name):
    ours = {
        line.strip() for p in (ROOT / "mlserve").glob("*.py") for line in p.read_text(encoding="utf-8").splitlines()
    }
    ours = {line for line in ours if line.startswith("def ") and not line.startswith(("def load(", "def build("))}
    for module in made[name].folder.rglob("*.py"):
        if (
            module.relative_to(made[name].folder).as_posix()
            not in (ROOT / "mlserve/project/shared.txt").read_text().split()
        ):
            assert not ours & {line.strip() for line in module.read_text(encoding="utf-8").splitlines()}, module


@pytest.mark.parametrize("name", PAIR)
def test_no_place_of_this_machine_is_written_down(made, name):
    for path in made[name].folder.rglob("*"):
        if path.is_file() and ".git" not in path.parts and path.suffix not in (".parquet", ".pyc"):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert str(ROOT) not in text and str(made[name].folder.parent) not in text, path


def test_the_recipes_train_and_answer(made):
    for project in made.values():
        params = project.folder / "params.yaml"
        params.write_text(params.read_text() + "  pipeline: {max_iter: 20}\n")
    root = made["flats"].folder.parent
    env = environment(PYTHONPATH=f"{made['flats'].folder}:{made['visits'].folder}", OMP_NUM_THREADS=1)
    tests = [f"{name}/tests" for name in PAIR]  # both at once: much of the time goes into imports
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "flats/pyproject.toml"]
    done = subprocess.run(
        [*command, "--rootdir=flats", "--import-mode=importlib", *tests],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout + done.stderr


def test_a_column_may_have_quotes_in_its_name(tmp_path):
    path = tmp_path / "rivers.csv"
    prices = [f"{k % 7 + k / 100}" for k in range(100)]
    pd.DataFrame({"x": [k % 11 for k in range(100)], 'price "EUR" \\': prices}).to_csv(path, index=False)
    made = scaffold.files(scaffold._about("rivers", propose(path, 'price "EUR" \\'), path))
    said = 'Estimates price "EUR" \\ from 1 columns'
    assert ast.get_docstring(ast.parse(made["rivers/__init__.py"])) == said
    assert yaml.safe_load(made["dvc.yaml"])["artifacts"]["rivers"]["desc"] == said


@pytest.mark.new
def test_a_project_with_large_data_releases_promotes_and_has_its_nights(tmp_path, monkeypatch):
    monkeypatch.setattr(scaffold, "LARGE", 0)
    path, target, _ = TABLES["visits"](tmp_path)
    project = create("visits", path, target, tmp_path, pinned=False)
    with (project.folder / "params.yaml").open("a") as params:
        params.write("  pipeline: {max_iter: 20}\n")

    def night(folder):
        return run(project, ".ci/retrain", cwd=folder)

    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "Begin")
    assert "no store is set" in night(project.folder)
    run(project, "dvc", "remote", "add", "-q", "-d", "team", str(tmp_path / "store"))
    run(project, "dvc", "add", "-q", "data/visits.parquet")
    run(project, "dvc", "push", "-q")
    run(project, "mlserve", "train")
    assert "released visits@v1.0.0" in run(project, "mlserve", "release")
    run(project, "mlserve", "promote", "visits@v1.0.0")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "The data is in the store")
    kept = run(project, "git", "ls-files").split()
    assert {"data/visits.parquet.dvc", "models/visits.dvc", ".dvc/.gitignore"} <= set(kept)
    assert not [name for name in kept if name.startswith(("trained", "cache", "reports", "store", ".dvc/cache"))]
    run(project, "make", "-o", ".venv/.ready", "clean")
    assert run(project, "git", "status", "--porcelain") == ""
    run(project, "dvc", "repro", "-q")
    assert (project.folder / "trained/visits/manifest.json").is_file()

    clone = tmp_path / "clone"
    run(project, "git", "clone", "-q", project.folder, clone, cwd=tmp_path)
    run(project, "make", "-o", ".venv/.ready", "data", cwd=clone)
    assert (clone / "data/visits.parquet").read_bytes() == path.read_bytes()
    (clone / "data/visits.parquet").unlink()
    assert "There is nothing to do." in night(clone)
    assert read_bundle(clone / "models/visits").manifest.version == "1.0.0"


def test_what_a_project_serves_with_is_installed_where_it_is_made():
    "A project's requirements.txt is written from what is installed, by `pip install 'mlserve[new]'` at least"
    sys.path.append(str(ROOT / ".ci"))
    from requirements import needed, target

    serving, new = (needed([f"mlserve[{extras}]"], target("3.11"), {}) for extras in ("store,postgres,sklearn", "new"))
    assert {"psycopg", "obstore", "scikit-learn", "fastapi"} <= serving.keys() <= new.keys()


def test_a_wheel_that_is_gone_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(scaffold, "_origin", lambda: tmp_path / "mlserve-0.whl")
    (told,) = scaffold.pin(tmp_path)
    assert "mlserve-0.whl, from which mlserve was installed, is gone" in told and not list(tmp_path.iterdir())


def test_the_workflows_call_only_what_the_makefile_has():
    makefile = (ROOT / "mlserve/project/Makefile.jinja").read_text(encoding="utf-8")
    called = {
        target
        for path in (ROOT / "mlserve/project/shared.txt").read_text().split()
        if path.startswith(".github/workflows")
        for line in re.findall(r"run: make (.*)", (ROOT / path).read_text(encoding="utf-8"))
        for target in line.split()
    }
    assert called and called <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


# Bringing it up to date


@pytest.mark.new
@pytest.mark.parametrize("name", TABLES)
def test_a_project_is_green_serves_and_could_be_deployed_in_six_minutes(name, tmp_path):
    path, target, task = TABLES[name](tmp_path)
    begun, env, steps = time.monotonic(), environment(OMP_WAIT_POLICY="passive"), []

    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.monotonic(), used.ru_utime + used.ru_stime

    def command(*words, cwd=tmp_path / name):
        before = spent()
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=1080)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        wall, cpu = (now - was for now, was in zip(spent(), before, strict=True))
        steps.append(f"{' '.join(map(str, words[1:3]))}: {wall:.0f} s, {cpu:.0f} s of CPU")
        print(name, steps[-1])
        return done.stdout

    said = command(MLSERVE, "new", name, "--data", path, "--target", target, cwd=tmp_path)
    assert "note:" not in said and f"cd {name} && make test" in said
    command("make", "setup")
    command("make", "test")
    command("make", "train")
    folder = tmp_path / name
    command("git", "add", "-A")
    command("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "Begin")
    bundle = read_bundle(folder / "models" / name)
    probe = json.loads(bundle.read("probe.json"))
    service = Service(folder, MLSERVE_SERVE_DRAIN=0.1)
    try:
        with urlopen(service.url + "/model", timeout=60) as answer:
            model = json.load(answer)
        request = Request(
            service.url + "/predict", json.dumps(probe["rows"]).encode(), {"content-type": "application/json"}
        )
        with urlopen(request, timeout=60) as answer:
            answers = json.load(answer)
    finally:
        service.stop()
    took = time.monotonic() - begun
    assert (model["name"], model["task"]) == (name, task) and len(answers) == len(probe["rows"])
    told = [a["value"] if task == "regression" else list(a["probabilities"].values()) for a in answers]
    frame = frame_of_rows(bundle.contract.fields, probe["rows"])
    pipeline = load_pipeline(bundle.read("pipeline.skops"), trusted=bundle.manifest.trusted)
    expected = pipeline.predict(frame) if task == "regression" else pipeline.predict_proba(frame)
    assert np.allclose(told, expected, rtol=1e-9)
    planned = command(MLSERVE, "deploy", "heroku", "--app", name.replace("_", "-"), "--dry-run")
    assert planned
    print(name, f"{took:.0f} s in all")
    assert took < 360, f"{took:.0f} s: {'; '.join(steps)}"


def test_an_update_shows_replaces_and_leaves_alone(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made["visits"].folder, tmp_path / "visits")
    assert scaffold.look_for_updates(folder).diff == ""
    shared = scaffold._shared()
    newer = shared | {"Procfile": b"web: newer\n", "conftest.py": b"# newer\n"}
    monkeypatch.setattr(scaffold, "_shared", lambda: newer)
    (folder / "conftest.py").write_text("# mine\n")
    (folder / "nbs/00_model.ipynb").write_text("mine too")
    update = scaffold.look_for_updates(folder)
    assert set(update.changed) == {"Procfile"} and update.kept == ("conftest.py",)
    assert "+web: newer" in update.diff and "-# mine" in update.diff
    scaffold.apply(update)
    assert (folder / "Procfile").read_bytes() == b"web: newer\n"
    assert (folder / "conftest.py").read_text() == "# mine\n" and (
        folder / "nbs/00_model.ipynb"
    ).read_text() == "mine too"
    assert scaffold.look_for_updates(folder).changed == {}


def test_the_command_shows_an_update_before_it_writes(made, tmp_path):
    folder = shutil.copytree(made["visits"].folder, tmp_path / "visits")
    assert "every file is as mlserve" in mlserve(folder, "new", "--update").stdout
    noted = json.loads((folder / ".mlserve.json").read_text())
    old = b"# as an older mlserve wrote it\n"
    (folder / "Procfile").write_bytes(old)
    noted["files"]["Procfile"] = scaffold._hash(old)
    (folder / ".mlserve.json").write_text(json.dumps(noted))
    told = json.loads(mlserve(folder, "new", "--update", "--json").stdout)
    assert (told["changed"], told["written"]) == (["Procfile"], False) and "-# as an older" in told["diff"]
    shown = mlserve(folder, "new", "--update").stdout
    assert "-# as an older" in shown and "nothing was written" in shown and (folder / "Procfile").read_bytes() == old
    assert "1 file written" in mlserve(folder, "new", "--update", "--yes").stdout
    assert (folder / "Procfile").read_bytes() == (ROOT / "Procfile").read_bytes()
