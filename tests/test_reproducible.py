"The same data, parameters and versions give the same bytes, in any process and on any number of threads"

import json

import pytest

from mlserve.bundle import read_bundle
from mlserve.examples.census import recipe as census_recipe
from mlserve.retrain import train
from mlserve.settings import load_settings
from tests.conftest import EXAMPLES, make_project, mlserve


@pytest.mark.parametrize("example", EXAMPLES)
def test_training_again_gives_the_same_bytes(projects, example, tmp_path):
    folder = make_project(tmp_path / example, example)
    done = mlserve(folder, "train", "--json", PYTHONHASHSEED=7, OMP_NUM_THREADS=1)
    assert done.returncode == 0, done.stderr
    first = read_bundle(next((projects[example] / "models").iterdir()))
    again = read_bundle(next((folder / "models").iterdir()))
    assert again.manifest == first.manifest  # with the hash of every file


def test_another_seed_gives_another_model(projects, tmp_path):
    folder = make_project(tmp_path / "wine", "wine")
    (folder / "params.yaml").write_text("wine:\n  seed: 1\n  held_out: 0.4\n")
    told = json.loads(mlserve(folder, "train", "--json").stdout)
    first = read_bundle(projects["wine"] / "models" / "wine").manifest
    assert told["version"] != first.version
    assert read_bundle(folder / "models" / "wine").manifest.lineage.held_out > first.lineage.held_out


def test_the_working_copy_of_the_data_is_what_is_learnt_from(projects, tmp_path):
    folder = make_project(tmp_path / "census", "census")
    assert mlserve(folder, "data", "copy").returncode == 0
    file = folder / "data" / "census.parquet"
    census_recipe.load(folder / "data").head(5000).to_parquet(file, index=False)
    train(load_settings(folder, environ={}))
    assert read_bundle(folder / "models" / "census").manifest.lineage.rows == 5000


def test_a_training_that_fails_leaves_the_model_as_it_was(census):
    before = read_bundle(census / "models" / "census").manifest
    assert mlserve(census, "data", "copy").returncode == 0
    loaded = census_recipe.load(census / "data").astype({"age": float})
    loaded.loc[3, "age"] = -5.0
    loaded.to_parquet(census / "data" / "census.parquet", index=False)
    done = mlserve(census, "train")
    assert done.returncode == 9
    assert "age" in done.stderr and "below 0" in done.stderr and "| 3 |" in done.stderr
    assert read_bundle(census / "models" / "census").manifest == before
    assert sorted(p.name for p in (census / "models").iterdir()) == ["census"]
