"A recipe and its parameters are taken as they were meant, or refused with the thing and the next step."

import pytest

from mlserve.recipe import BadRecipe, Params, Recipe, Slice, read_params


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
