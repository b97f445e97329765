"Every recipe that ships can be found, read, trained and asked."

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mlserve.contract import check_row, check_rows, example, from_json, to_json
from mlserve.data import frame_of_rows, make_table
from mlserve.recipe import find_recipe, read_params
from mlserve.train import fit

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {
    "census": "mlserve.examples.census:recipe",
    "census-forest": "mlserve.examples.census:census_forest",
    "diabetes": "mlserve.examples.diabetes:recipe",
    "wine": "mlserve.examples.wine:recipe",
}
every_recipe = pytest.mark.parametrize("name", RECIPES)


@cache
def trained(name):
    "(recipe, table, fitted pipeline)"
    recipe = find_recipe(RECIPES[name], ROOT)
    table = make_table(recipe, recipe.load(Path("no such folder")))
    return recipe, table, fit(recipe, table, read_params(recipe, Path("no such file")), RECIPES[name])


@every_recipe
def test_it_says_what_it_is(name):
    recipe, table, fitted = trained(name)
    assert recipe.name == name
    assert set(recipe.about) == {"description", "intended_use", "training_data", "ethics", "caveats"}
    assert all(recipe.about.values())
    assert json.loads(json.dumps(dict(fitted.lineage.params))) == fitted.lineage.params
    for group in table.slices.values():
        assert len(set(group)) > 1


@every_recipe
def test_its_contract_is_stored_and_its_example_is_beyond_reproach(name):
    _, table, _ = trained(name)
    assert from_json(json.loads(json.dumps(to_json(table.contract)))) == table.contract
    row = example(table.contract)
    assert check_row(table.contract, row) == (row, [], [])


@every_recipe
def test_it_answers_one_row_as_it_answers_many(name):
    _, table, fitted = trained(name)
    rows, _ = table.part(held_out=True)
    sent = [
        {k: None if v != v else v.item() if isinstance(v, np.generic) else v for k, v in row.items()}
        for row in rows[:20].to_dict("records")
    ]
    checked = check_rows(table.contract, sent)
    assert checked.warnings == [()] * len(sent)
    ask = getattr(fitted.pipeline, "predict_proba", fitted.pipeline.predict)
    many = ask(rows[:20])
    single = np.array([ask(frame_of_rows(table.contract.fields, [row]))[0] for row in checked.rows])
    # a linear model adds up many rows in another order than one
    rounding = 1e-12 if name in ("diabetes", "wine") else 0
    np.testing.assert_allclose(single, many, rtol=rounding, atol=0)


@pytest.mark.parametrize("name", ["census", "census-forest"])
def test_the_census_models_answer_the_unseen(name):
    _, table, fitted = trained(name)
    person = example(table.contract)
    odd = [
        person | {"workclass": None, "occupation": None, "native-country": None},
        person | {"workclass": "Gig-work", "native-country": "Atlantis", "sex": "?"},
        person | {"age": 0, "capital-gain": 10**9, "hours-per-week": 168},
    ]
    p = fitted.pipeline.predict_proba(frame_of_rows(table.contract.fields, check_rows(table.contract, odd).rows))
    assert p.shape == (3, 2) and np.isfinite(p).all() and np.allclose(p.sum(axis=1), 1)


def test_an_unseen_category_is_a_missing_one_to_the_census_model():
    _, table, fitted = trained("census")
    person = example(table.contract)
    rows = frame_of_rows(table.contract.fields, [person | {"workclass": w} for w in (None, "Gig-work")])
    one, other = fitted.pipeline.predict_proba(rows)
    assert np.array_equal(one, other)


def test_every_field_of_the_census_is_explained():
    _, table, _ = trained("census")
    assert all(f.description for f in table.contract.fields)
    assert {f.name: (f.low, f.high) for f in table.contract.fields if f.outside == "refuse"} == {
        "age": (0, 120),
        "education-num": (1, 16),
        "capital-gain": (0, None),
        "capital-loss": (0, None),
        "hours-per-week": (0, 168),
    }
    for change, said in (
        ({"age": 121}, "age lies outside 0 to 120"),
        ({"capital-gain": -1}, "capital-gain lies below 0"),
        ({"hours-per-week": 169}, "hours-per-week lies outside 0 to 168"),
    ):
        assert [e.message for e in check_row(table.contract, example(table.contract) | change)[1]] == [said]
