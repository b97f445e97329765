"From an answer to data that the next training reads"

import json
import subprocess
from dataclasses import replace

import pytest

from mlserve.bundle import read_bundle
from mlserve.collect import CannotCollect, as_arrow, collect
from mlserve.contract import Contract, Output, example
from mlserve.data import load_table
from mlserve.database import Entry, new_id, open_journal, put_truths
from mlserve.journal import Answered, Source, write_answers
from mlserve.recipe import find_recipe
from mlserve.settings import load_settings

from .conftest import EXAMPLES, copy_project, mlserve


def answered(folder, name, count):
    "A project whose journal holds answers, and their ids"
    settings = load_settings(folder, environ={})
    bundle = read_bundle(settings.path(settings.model.folder) / name)
    row = tuple(example(bundle.contract).values())
    source = Source(name, bundle.manifest.version, bundle.contract)
    answers = [Answered(new_id(), source, row, (0, 1.0)) for _ in range(count)]
    journal = open_journal("", settings.path(settings.journal.folder))
    write_answers(journal, answers, set())
    journal.close()
    return bundle, [a.id for a in answers]


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_was_collected_is_learnt_from_once(projects, tmp_path, name):
    folder = copy_project(projects[name], tmp_path / name)
    settings = load_settings(folder, environ={})
    recipe = find_recipe(settings.model.recipe, settings.root)
    before = load_table(recipe, settings)
    bundle, ids = answered(folder, name, 8)
    output = bundle.contract.output
    key, truth, other = ("label", *output.classes[:2]) if output.classes else ("value", 100.0, 101.0)
    file = tmp_path / "truth.jsonl"

    def tell(truths):
        file.write_text("".join(json.dumps({"id": i, key: t}) + "\n" for i, t in truths.items()))
        said = mlserve(folder, "feedback", file, "--json")
        assert said.returncode == 0, said.stderr
        return json.loads(said.stdout)

    def collect():
        said = mlserve(folder, "collect", "--json")
        assert said.returncode == 0, said.stderr
        return json.loads(said.stdout)["rows"]

    assert tell(dict.fromkeys(ids[:5], truth)) == {"stored": 5, "corrected": 0, "repeated": 0, "outdated": 0}
    assert (collect(), collect()) == (5, 0)
    assert tell({ids[0]: other, ids[1]: truth, ids[7]: truth}) == {
        "stored": 1,
        "corrected": 1,
        "repeated": 1,
        "outdated": 0,
    }
    assert (collect(), collect()) == (2, 0)
    after = load_table(recipe, settings)
    assert [f.kind for f in after.contract.fields] == [f.kind for f in before.contract.fields]
    new = after.target[len(before.target) :].tolist()
    assert sorted(map(str, new)) == sorted(map(str, [other, *[truth] * 5]))
    assert after.fingerprint != before.fingerprint


def test_dvc_remembers_what_was_collected(projects, tmp_path):
    folder = copy_project(projects["wine"], tmp_path / "wine")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    bundle, ids = answered(folder, "wine", 2)
    file = tmp_path / "truth.csv"
    file.write_text("id,label\n" + "".join(f"{i},{bundle.contract.output.classes[0]}\n" for i in ids))
    assert mlserve(folder, "feedback", file).stdout == "2 stored, 0 corrected, 0 repeated, 0 outdated\n"
    assert mlserve(folder, "collect").returncode == 0
    assert "md5" in (folder / "data/wine-increments.dvc").read_text()


def test_bad_files_are_refused_as_a_whole(projects, tmp_path):
    folder = copy_project(projects["wine"], tmp_path / "wine")
    bundle, [one, two] = answered(folder, "wine", 2)
    file = tmp_path / "truth.jsonl"
    good = json.dumps({"id": one, "label": bundle.contract.output.classes[0]})
    file.write_text(f'{good}\n{{"id": "{two}", "label": "vinegar"}}\n')
    refused = mlserve(folder, "feedback", file)
    assert refused.returncode == 4 and "row 1" in refused.stderr
    file.write_text("id: 1\n")
    assert "not JSON" in mlserve(folder, "feedback", file).stderr
    assert "cannot be read" in mlserve(folder, "feedback", tmp_path / "none.csv").stderr
    assert "nothing new" in mlserve(folder, "collect").stdout


def test_a_damaged_increment_is_named(projects, tmp_path):
    folder = copy_project(projects["wine"], tmp_path / "wine")
    answered(folder, "wine", 1)
    (folder / "data/wine-increments").mkdir(parents=True)
    (folder / "data/wine-increments/000001.parquet").write_bytes(b"PAR1")
    refused = mlserve(folder, "collect")
    assert refused.returncode == 9 and refused.stderr == (
        "mlserve: the increment wine-increments/000001.parquet cannot be read; restore it, or delete it and collect again\n"
    )


def test_two_that_collect_at_once_do_not_take_the_same(projects, tmp_path):
    folder = copy_project(projects["wine"], tmp_path / "wine")
    bundle, ids = answered(folder, "wine", 3)
    truth = bundle.contract.output.classes[0]
    settings = load_settings(folder, environ={})
    journal = open_journal("", settings.path(settings.journal.folder))
    put_truths(journal, [(ids[0], truth)])

    def again(increments):
        with pytest.raises(CannotCollect, match="another collect"):
            collect(journal, "wine", bundle.contract, tmp_path / "data")

    made = collect(journal, "wine", bundle.contract, tmp_path / "data", again)
    assert made.path.name == "000001.parquet" and [p.name for p in made.path.parent.iterdir()] == ["000001.parquet"]
    put_truths(journal, [(ids[1], truth)])
    collect(journal, "wine", bundle.contract, tmp_path / "data")
    made.path.unlink()  # a gap does not lead to a number that is taken
    put_truths(journal, [(ids[2], truth)])
    assert collect(journal, "wine", bundle.contract, tmp_path / "data").path.name == "000003.parquet"
    journal.close()


def test_a_truth_that_no_number_holds_is_named():
    contract = Contract((), Output("regression", "price"))
    huge, large = (Entry(new_id(), "price", "1.0.0", {}, 9.5, None, truth, 0.0) for truth in (10**400, 10**19))
    assert as_arrow(contract, [large, replace(large, truth=1)]).column("price").to_pylist() == [1e19, 1.0]
    with pytest.raises(CannotCollect, match=f"the truth of {huge.id} is too large"):
        as_arrow(contract, [large, huge])
