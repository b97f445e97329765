"Whole files: what is read, where the answer stands, and what is left of it when something fails"

import csv
import signal
from errno import ENOSPC
from functools import partial

import pandas as pd
import pytest

from mlserve.batch import BadFile, predict_file, replacing
from mlserve.cli import _stoppable
from mlserve.contract import Contract, Output, infer_field
from mlserve.score import Model, Scored


def model_of(*names):
    fields = tuple(infer_field(name, [20, 40, 60]) for name in names)

    class Bundle:
        contract = Contract(fields, Output("binary", "vote", ("no", "yes"), "yes"))
        manifest = type("Manifest", (), {"name": "vote", "version": "1.0.0"})

    return Model(Bundle, lambda rows: [Scored(1.0, (0.25, 0.75)) for _ in rows])


def test_two_who_write_to_one_place_do_not_mix(tmp_path):
    source, target, seen = tmp_path / "ages.csv", tmp_path / "out.csv", []
    source.write_text("age\n" + "30\n" * 6_000)

    def meanwhile(share):
        if not seen:
            seen.append(predict_file(model_of("age"), source, target))

    assert predict_file(model_of("age"), source, target, meanwhile) == 6_000
    assert seen == [6_000] and len(target.read_text().splitlines()) == 6_001
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ages.csv", "out.csv"]


def test_files_appear_together_or_not_at_all(tmp_path):
    old, new = tmp_path / "a.json", tmp_path / "b.json"
    old.write_text("before")
    with pytest.raises(OSError, match="full") as failed, replacing(old, new) as (first, _):
        first.write_text("after")
        raise OSError(ENOSPC, "full")
    assert failed.value.filename == str(old)
    with pytest.raises(FileNotFoundError) as failed, replacing(tmp_path / "nowhere" / "c.json") as (part,):
        part.write_text("c")
    assert failed.value.filename.endswith("c.json") and old.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with replacing(old, new) as parts:
        for part in parts:
            part.write_text("after")
    assert (old.read_text(), new.read_text()) == ("after", "after")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_command_that_is_told_to_end_leaves_nothing_behind(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, _stoppable(), replacing(tmp_path / "a.csv") as (part,):
        part.write_text("half")
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143 and list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name;age\nJo;30\n", "parted at ';'"),
        (b'"name";"age"\n"Jo";30\n', "cannot be read as csv: ',' expected"),
        ("name,age\nJörg,30\n".encode("cp1252"), "is not UTF-8"),
        ("name,age\nJörg,30\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_file_of_another_form_is_told_which_one_is_read(tmp_path, content, said):
    (tmp_path / "ages.csv").write_bytes(content)
    with pytest.raises(BadFile, match=said + r".*UTF-8 with commas"):
        predict_file(model_of("age"), tmp_path / "ages.csv", tmp_path / "out.csv")


def test_a_long_text_beside_the_fields_stays(tmp_path):
    (tmp_path / "ages.csv").write_text(f"story,age\n{'x' * 200_000},30\n")
    assert predict_file(model_of("age"), tmp_path / "ages.csv", tmp_path / "out.csv") == 1
    assert (tmp_path / "out.csv").stat().st_size > 200_000 and csv.field_size_limit() == 131_072


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_field_may_have_the_name_of_an_answer(tmp_path, suffix):
    source, target, model = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", model_of("warnings", "probability_no")
    rows = pd.DataFrame({"warnings": [30], "probability_no": [40]})
    write = {".csv": rows.to_csv, ".parquet": rows.to_parquet}
    write[suffix](source, index=False) if suffix in write else rows.to_json(source, orient="records", lines=True)
    assert predict_file(model, source, target) == 1
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": partial(pd.read_json, lines=True)}[suffix]
    answers = ["predicted_label", "answer_probability_no", "probability_yes", "answer_warnings"]
    assert list(read(target)) == ["warnings", "probability_no", *answers]
    assert read(target)["answer_probability_no"].tolist() == [0.25]
