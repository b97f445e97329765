"A recipe and its parameters are taken as they were meant, or refused with the thing and the next step."

import sys

import pytest

from mlserve.recipe import BadRecipe, Params, Recipe, Slice, find_recipe, read_params
from mlserve.retrain import train
from mlserve.settings import load_settings
from mlserve.train import CannotFit


def build(alpha, beta=2):
    raise NotImplementedError


def recipe(**changes):
    return Recipe(**{"name": "c", "task": "regression", "target": "y", "load": None, "build": build} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "a b"}, "'a b' cannot name a model"),
        ({"name": "-a"}, "cannot name a model"),
        ({"task": "ranking"}, "tasks are binary, multiclass, regression"),
        ({"task": "binary"}, "must say which class is the positive one"),
        ({"features": ("age", "y")}, "learns from its own target y"),
        ({"features": "age"}, "must be a tuple of names, such as ('age',)"),
        ({"features": ("age", "sex", "age")}, "names age more than once in its features"),
        ({"slices": (Slice("age"), Slice("age", (25,)))}, "names age more than once in its slices"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(BadRecipe) as refused:
        recipe(**changes)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("c: {pipeline: {alpha: 1}}", Params(0, 0.2, {"alpha": 1, "beta": 2})),
        (
            "c: {seed: 4294967295, held_out: 0.5, pipeline: {alpha: a, beta: null}}",
            Params(2**32 - 1, 0.5, {"alpha": "a", "beta": None}),
        ),
        ("other: {seed: x}\nc: {pipeline: {alpha: 1}}", Params(0, 0.2, {"alpha": 1, "beta": 2})),
    ],
)
def test_parameters_are_completed_by_the_defaults_of_build(tmp_path, text, params):
    (tmp_path / "params.yaml").write_text(text)
    assert read_params(recipe(), tmp_path / "params.yaml") == params


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the pipeline of c takes alpha, beta and has no default for alpha"),
        ("c: {pipeline: {beta: 1}}", "has no default for alpha; give it one, or a value under pipeline"),
        ("c: {pipeline: {alpha: 1, gamma: 1, 2: 3}}", "takes alpha, beta, not 2, gamma"),
        ("c: {pipeline: [alpha]}", "params.yaml cannot be read"),
        ("c: {seeds: 1}", "under c: it takes seed, held_out and pipeline"),
        ("c: 5", "params.yaml cannot be read"),
        ("- c", "params.yaml cannot be read"),
        ("c: {seed: [", "params.yaml cannot be read"),
        ("c: {seed: -1}", "the seed of c must be a whole number from 0 to 2^32 - 1"),
        ("c: {seed: 4294967296}", "the seed of c must be"),
        ("c: {seed: true}", "the seed of c must be"),
        ("c: {seed: 1.0}", "the seed of c must be"),
        ("c: {held_out: 0}", "held_out of c must be a number between 0 and 1"),
        ("c: {held_out: 1.0}", "held_out of c must be"),
        ("c: {held_out: .nan}", "held_out of c must be"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(tmp_path, text, said):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(BadRecipe) as refused:
        read_params(recipe(), tmp_path / "params.yaml")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_build_without_parameters_says_so(tmp_path):
    (tmp_path / "params.yaml").write_text("c: {pipeline: {alpha: 1}}")
    with pytest.raises(BadRecipe, match="takes no parameter, not alpha"):
        read_params(recipe(build=lambda: None), tmp_path / "params.yaml")


@pytest.mark.parametrize("edges", [(65, 25), (25, 25), (25, float("nan")), (25, float("inf")), ("25",)])
def test_edges_that_cut_nothing_are_refused(edges):
    with pytest.raises(BadRecipe, match="the edges of the slice g must be finite numbers that rise"):
        Slice("g", edges)


def test_a_build_may_take_any_argument(tmp_path):
    (tmp_path / "params.yaml").write_text("c: {pipeline: {alpha: 1}}")
    taken = read_params(recipe(build=lambda *steps, beta=2, **others: None), tmp_path / "params.yaml")
    assert taken.pipeline == {"alpha": 1, "beta": 2}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "raises",
            "x = 1\nraise ValueError('twice')",
            "cannot be imported: ValueError: twice (mistaken_raises.py, line 2)",
        ),
        ("needs", "import not_installed_here", "imports not_installed_here, which is not installed here"),
        ("typo", "recipe = (", "SyntaxError: '(' was never closed (mistaken_typo.py, line 1)"),
        ("from_", "from math import sqroot", "ImportError: cannot import name 'sqroot' from 'math'"),
        ("none", "other = 1", "there is no recipe at mistaken_none:recipe; write module:name"),
        ("own", "from mlserve.recipe import Slice\nSlice('g', (2, 1))", "the edges of the slice g must be"),
    ],
)
def test_mistakes_in_the_recipes_module_are_told(tmp_path, monkeypatch, name, text, said):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"mistaken_{name}.py").write_text(text)
    with pytest.raises(BadRecipe) as refused:
        find_recipe(f"mistaken_{name}:recipe", tmp_path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


FAULTS = """
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from mlserve.recipe import Recipe

class Broken(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        raise KeyError("age")

def load(folder):
    return pd.DataFrame({"x": range(100), "y": ["a", "b"] * 50})

def forbidden(folder):
    raise PermissionError("no")

def missing(folder):
    return {}["age"]

def build():
    return make_pipeline(Broken())

def out_of_reach():
    raise RuntimeError("the licence server is away")

fit = Recipe("c", "binary", "y", load, build, positive="a")
built = Recipe("c", "binary", "y", load, out_of_reach, positive="a")
closed = Recipe("c", "binary", "y", forbidden, build, positive="a")
keyless = Recipe("c", "binary", "y", missing, build, positive="a")
"""


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        (
            "fit",
            CannotFit,
            "the pipeline does not fit the data: KeyError: 'age' (faulty.py, line 9); mend the recipe's build",
        ),
        ("built", CannotFit, "the build of c fails: RuntimeError: the licence server is away (faulty.py, line 24)"),
        ("closed", BadRecipe, "the load of c fails: PermissionError: no (faulty.py, line 15)"),
        ("keyless", BadRecipe, "the load of c fails: KeyError: 'age' (faulty.py, line 18)"),
    ],
)
def test_whatever_the_code_of_a_recipe_raises_is_a_sentence(tmp_path, monkeypatch, name, kind, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    (tmp_path / "faulty.py").write_text(FAULTS)
    (tmp_path / "settings.ini").write_text(f"[model]\nrecipe = faulty:{name}\n")
    with pytest.raises(kind) as refused:
        train(load_settings(tmp_path, environ={}))
    assert str(refused.value) == said and not (tmp_path / "models").exists()


@pytest.mark.parametrize("where", ["", ":recipe", ".x:recipe", "a..b:recipe", "a b"])
def test_what_names_no_module_is_refused(tmp_path, where):
    with pytest.raises(BadRecipe, match="there is no recipe at"):
        find_recipe(where, tmp_path)
