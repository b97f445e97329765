"The command line on real projects"

import csv
import json
import os
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from mlserve.bundle import read_bundle
from mlserve.cli import app, say, told
from mlserve.command import main
from mlserve.compare import LEVELS
from mlserve.doctor import examine
from mlserve.examples.census import recipe as census_recipe
from tests.conftest import MLSERVE, environment, free_port, make_project, mlserve


def printed(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_train_says_what_it_made(tmp_path):
    folder = make_project(tmp_path / "wine", "wine")
    done = mlserve(folder, "train", "--json")
    told = printed(done)
    bundle = read_bundle(folder / "models" / "wine")
    assert (told["name"], told["version"]) == ("wine", bundle.manifest.version)
    assert told["metrics"]["accuracy_low"] <= told["metrics"]["accuracy"] <= told["metrics"]["accuracy_high"]
    assert "fit wine to" in done.stderr


def test_evaluate_writes_the_report(project):
    told = printed(mlserve(project, "evaluate", "--json"))
    report = project / "reports" / told["name"]
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics == told["metrics"] == read_bundle(project / "models" / told["name"]).manifest.metrics
    assert all(isinstance(v, int | float) for v in metrics.values())
    assert (report / "slice_output.txt").read_text()
    for plot in report.glob("plots/*.png"):
        assert plot.read_bytes().startswith(b"\x89PNG")
    assert len(list(report.glob("plots/*.png"))) >= 3


def test_evaluate_on_a_file(census):
    loaded = census_recipe.load(census / "data")
    loaded.head(2000).to_parquet(census / "new.parquet", index=False)
    told = printed(mlserve(census, "evaluate", "--data", "new.parquet", "--json"))
    assert told["metrics"]["rows"] == 2000
    loaded.head(2000).drop(columns="age").to_csv(census / "new.csv", index=False)
    refused = mlserve(census, "evaluate", "--data", "new.csv")
    assert refused.returncode == 9 and "no column age" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predict_answers_a_file(census, suffix):
    loaded = census_recipe.load(census / "data").drop(columns="income").head(7000)
    source = census / f"people{suffix}"
    if suffix == ".csv":
        loaded.to_csv(source, index=False)
    elif suffix == ".jsonl":
        loaded.to_json(source, orient="records", lines=True)
    else:
        loaded.to_parquet(source, index=False)
    told = printed(mlserve(census, "predict", source, "--json"))
    assert told["rows"] == 7000
    answered = census / f"people.predicted{suffix}"
    if suffix == ".parquet":
        labels = pq.read_table(answered)["predicted_label"].to_pylist()
        assert pq.read_schema(answered).names[: len(loaded.columns)] == list(loaded.columns)
    elif suffix == ".csv":
        with answered.open(newline="") as file:
            labels = [row["predicted_label"] for row in csv.DictReader(file)]
    else:
        labels = [json.loads(line)["predicted_label"] for line in answered.read_text().splitlines()]
    other = census / "other.jsonl"
    if suffix != ".jsonl":  # all formats give the same answers
        loaded.to_json(other, orient="records", lines=True)
        printed(mlserve(census, "predict", other, "--json"))
        rows = (census / "other.predicted.jsonl").read_text().splitlines()
        assert labels == [json.loads(line)["predicted_label"] for line in rows]
    assert set(labels) == {"<=50K", ">50K"} and len(labels) == 7000


def test_a_wrong_file_is_named_and_nothing_is_written(census):
    (census / "people.csv").write_text("age\nforty\n")
    refused = mlserve(census, "predict", "people.csv")
    assert refused.returncode == 4 and "people.csv has no column 'workclass'" in refused.stderr
    missing = mlserve(census, "predict", "nobody.csv", "--json")
    assert missing.returncode == 4 and json.loads(missing.stdout)["error"] == "bad_file"
    assert not list(census.glob("*.predicted*")) and not list(census.glob(".*.part"))


def test_without_a_model_the_next_step_is_said(tmp_path):
    folder = make_project(tmp_path / "empty", "census")
    for command in (["serve"], ["evaluate"], ["predict", "x.csv"], ["contract", "export"]):
        done = mlserve(folder, *command)
        assert done.returncode == 7, command
        assert done.stderr.strip() == "mlserve: there is no model in models; `mlserve train` makes one" or (
            "mlserve train" in done.stderr and len(done.stderr.splitlines()) <= 2
        )


def test_a_damaged_model_is_not_served(census):
    (path,) = census.glob("models/census/pipeline.skops")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = mlserve(census, "serve", PORT=free_port())
    assert done.returncode == 6 and "pipeline.skops" in done.stderr and "Traceback" not in done.stderr


def test_doctor_finds_a_healthy_project_healthy(project):
    findings = printed(mlserve(project, "doctor", "--json", PORT=free_port()))
    assert {f["name"]: f["state"] for f in findings if f["state"] != "ok"} == {}
    assert len(findings) >= 8


def test_doctor_finds_what_is_wrong(census):
    (census / "models/census/metrics.json").write_text("{}")
    (census / "params.yaml").write_text("census:\n  pipeline:\n    leaves: 3\n")
    done = mlserve(census, "doctor", "--json", PORT=free_port())
    states = {f["name"]: f["state"] for f in json.loads(done.stdout)}
    assert done.returncode == 1
    assert states["bundle"] == states["recipe"] == "fail" and states["settings"] == "ok"


@pytest.mark.parametrize(
    ("name", "env", "said"),
    [
        ("journal", {"DATABASE_URL": "x"}, "must begin with postgres://"),
        (
            "journal",
            {"DATABASE_URL": "postgres://ada:secret@127.0.0.1:9/x"},
            "see whether it runs and DATABASE_URL is right",
        ),
        ("journal", {"MLSERVE_JOURNAL_FOLDER": "/proc/none"}, "none cannot be written"),
        ("store", {"MLSERVE_STORE_URL": "zz://a"}, "zz:// is not read here"),
    ],
)
def test_doctor_says_what_serve_would_miss(tmp_path, monkeypatch, name, env, said):
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    found = {f.name: f for f in examine(tmp_path)}[name]
    assert found.state == "fail" and said in found.message and "secret" not in found.message


def test_a_journal_that_cannot_be_opened_is_named(census, monkeypatch):
    monkeypatch.setenv("MLSERVE_JOURNAL_FOLDER", "/proc/none")
    done = CliRunner().invoke(app, ["shadow", "--model", str(census / "models/census")])
    assert done.exit_code == 14 and done.stderr == (
        "mlserve: the journal in none cannot be opened; make room and rights there, or set MLSERVE_JOURNAL_FOLDER\n"
    )


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PORT": "http"}, "PORT is 'http' but must be a whole number"),
        ({"MLSERVE_SERVE_PROT": "1"}, "did you mean MLSERVE_SERVE_PORT?"),
        ({"MLSERVE_MODEL_RECIPE": "nowhere:recipe"}, "no module nowhere"),
    ],
)
def test_a_wrong_setting_stops_the_command(census, env, said):
    done = mlserve(census, "train", **env)
    assert done.returncode in (2, 8) and said in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    folder = make_project(tmp_path / "wine", "wine")
    (folder / "models").write_text("")  # not even root may make a folder in it
    done = mlserve(folder, "train")
    assert done.returncode == 1 and "models" in done.stderr and "Traceback" not in done.stderr


def test_the_contract_is_exported(census):
    schema = json.loads(mlserve(census, "contract", "export").stdout)
    assert "education-num" in schema["properties"]
    suite = json.loads(mlserve(census, "contract", "export", "--to", "gx").stdout)
    assert suite["expectations"]
    wrong = mlserve(census, "contract", "export", "--to", "excel")
    assert wrong.returncode != 0 and "jsonschema" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_fault_that_nobody_foresaw_is_a_sentence_too(monkeypatch, options):
    def fail(*_):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("mlserve.bundle.read_bundle", fail)
    done = CliRunner().invoke(app, ["compare", "a", "b", *options])
    said = "this was not foreseen: ZeroDivisionError: division by zero (test_cli.py, line "
    assert done.exit_code == 70 and said in done.output and "Traceback" not in done.output
    assert not options or json.loads(done.stdout)["error"] == "unforeseen"


def test_a_comparison_without_a_picture_says_why(census, tmp_path):
    model = str(census / "models/census")
    done = CliRunner().invoke(app, ["compare", model, model, "--plot", str(tmp_path / "x.png")])
    assert done.exit_code == 0 and not (tmp_path / "x.png").exists()
    assert done.stdout.endswith("nothing is drawn, because the answers are the same or cannot be compared\n")


def test_the_stream_has_weeks(census):
    told = printed(mlserve(census, "data", "stream", "--week", "13", "--drift", "covariate:0.5", "--json"))
    assert told["rows"] == pq.read_metadata(told["file"]).num_rows > 500
    wrong = mlserve(census, "data", "stream", "--week", "13", "--drift", "weather:9")
    assert wrong.returncode != 0 and "covariate" in wrong.stderr and "Traceback" not in wrong.stderr


def test_help_has_a_line_for_each_command(tmp_path):
    done = mlserve(tmp_path, "--help")
    commands = get_command(app).commands
    assert len(commands) > 20
    for name in commands:
        assert re.search(rf"(?m)^\W*{name} +\w", done.stdout), name


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_file_without_rows_gets_its_columns(census, suffix):
    none = census_recipe.load(census / "data").drop(columns="income").head(0)
    source = census / f"nobody{suffix}"
    {".csv": none.to_csv, ".parquet": none.to_parquet}.get(suffix, lambda *a, **k: source.write_text(""))(
        source, index=False
    )
    assert printed(mlserve(census, "predict", source.name, "--json"))["rows"] == 0
    made = census / f"nobody.predicted{suffix}"
    if suffix != ".jsonl":
        read = pq.read_schema(made).names if suffix == ".parquet" else made.read_text().strip().split(",")
        assert read[:13] == list(none.columns)
        assert read[13:] == ["predicted_label", "probability_<=50K", "probability_>50K", "warnings"]


def test_every_command_speaks_to_programs(census):
    assert printed(mlserve(census, "version", "--json"))["version"]
    told = printed(mlserve(census, "contract", "export", "--json"))
    assert (told["model"], told["to"]) == ("census", "jsonschema") and json.loads(told["contract"])["properties"]
    command = [MLSERVE, "serve", "--json", "--port", str(free_port())]
    with subprocess.Popen(command, cwd=census, env=environment(), stdout=subprocess.PIPE) as serving:
        place = json.loads(serving.stdout.readline())
        serving.terminate()
    assert place == {"url": f"http://127.0.0.1:{command[-1]}", "workers": 1} and serving.returncode == 0


@pytest.mark.parametrize("command", [["show"], ["history"], ["store", "check"]])
def test_a_model_that_was_never_released_is_named(census, command):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *words], cwd=census, check=True)
    (census / ".dvc").mkdir()
    (census / ".dvc" / "config").write_text("[core]\n    remote = here\n['remote \"here\"']\n    url = ../store\n")
    done = mlserve(census, *command, "nobody")
    assert (
        done.returncode == 9 and "no model nobody was released here" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_reader_who_has_enough_is_no_failure(monkeypatch):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as gone:  # closed without a complaint, too
        monkeypatch.setattr(sys, "stdout", gone)
        with pytest.raises(typer.Exit) as ended:
            told(lambda: say("line\n" * 50_000, {}, False))()
    assert ended.value.exit_code == 141


def test_a_seed_is_no_negative_number():
    refused = CliRunner().invoke(app, ["data", "stream", "--week", "13", "--seed", "-1", "--drift", "label:.5"])
    assert refused.exit_code == 2 and "--seed" in refused.output


def test_the_help_of_release_names_the_levels_to_raise_to():
    (level,) = (option for option in get_command(app).commands["release"].params if option.name == "level")
    assert all(name in level.help for name in LEVELS[1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "--json"], "Missing argument"),
        (["serve", "--port", "abc", "--json"], "'--port'"),
        (["predcit", "--json"], "No such command 'predcit'"),
        (["data", "stream", "--week", "13", "--seed", "-1", "--json"], "'--seed'"),
    ],
)
def test_a_wrong_call_is_told_to_programs_too(monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["mlserve", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 2 and said in told.pop("message") and told == {"error": "usage", "fields": []}


def test_a_command_for_programs_ends_as_it_did(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words, code in ((["version", "--json"], 0), (["predict", "no.csv", "--json"], 7)):
        monkeypatch.setattr(sys, "argv", ["mlserve", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code and json.loads(capsys.readouterr().out)
