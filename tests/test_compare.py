"What is done to a model, and the level and the reason that it gets: one table over the three recipes that ship"

import json
import re
import shutil
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlserve.behaviour import Floor, behave, exceeds, next_at, tail, upper
from mlserve.bundle import FORMAT, BadBundle, Manifest, dump, read_bundle, unreleased, write_bundle
from mlserve.compare import (
    CannotRaise,
    Overlap,
    _behaviour_reasons,
    as_json,
    as_markdown,
    behaviour_on_shared_rows,
    compare,
    floor_of,
    next_version,
    overlap,
    raise_level,
)
from mlserve.contract import Field, Output, to_json
from mlserve.data import make_table
from mlserve.examples import census, diabetes, wine
from mlserve.lineage import KEPT, describe, lineage_files, mixed, noise_floor, sketch
from mlserve.persist import dump_pipeline
from mlserve.promise import LEVELS
from mlserve.recipe import Params
from mlserve.score import check_probe, load_model
from mlserve.train import fit
from tests.conftest import mlserve

# -- how the models are made: small and quick, but the real thing from the data to the bundle


@cache
def everybody():
    return census.load(Path())


def linear(C=1.0, scaler=MinMaxScaler, min_frequency=5):
    encode = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=min_frequency, sparse_output=False)
    columns = make_column_transformer((encode, census.CATEGORIES), (scaler(), census.NUMBERS))
    return make_pipeline(columns, LogisticRegression(C=C, max_iter=2000))


def boosted(max_iter=30, max_depth=None):
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    columns = make_column_transformer((codes, census.CATEGORIES), ("passthrough", census.NUMBERS))
    trees = HistGradientBoostingClassifier(max_iter=max_iter, max_depth=max_depth, early_stopping=False)
    return make_pipeline(columns, trees)


def wrapped(wrapper, build=linear, **options):
    columns, estimator = (step for _, step in build().steps)
    return make_pipeline(columns, wrapper(estimator, **options))


def cut_at(threshold):
    return wrapped(FixedThresholdClassifier, threshold=threshold)


def wine_model(C=1.0, scaler=StandardScaler):
    return make_pipeline(scaler(), LogisticRegression(C=C, max_iter=1000))


def wine_tree():
    return make_pipeline(StandardScaler(), DecisionTreeClassifier())


def diabetes_model(alpha=0.1, scaler=StandardScaler, estimator=ElasticNet):
    return make_pipeline(scaler(), estimator(alpha=alpha))


BASES = {  # recipe, rows
    "linear": (replace(census.recipe, name="census", build=linear), lambda: everybody().head(4000)),
    "boosted": (replace(census.recipe, name="census", build=boosted), lambda: everybody().head(4000)),
    "wine": (replace(wine.recipe, build=wine_model), lambda: wine.load(Path())),
    "diabetes": (replace(diabetes.recipe, build=diabetes_model), lambda: diabetes.load(Path())),
}


def make(folder, recipe, rows, refits=0, seed=0, held_out=0.2, **params):
    table, params = make_table(recipe, rows, held_out), Params(seed, held_out, params)
    fitted = fit(recipe, table, params, "tests:recipe")
    files = {"contract.json": dump(to_json(table.contract)), "pipeline.skops": dump_pipeline(fitted.pipeline)}
    files |= lineage_files(recipe, table, params, fitted.pipeline, refits)
    return write_bundle(folder, Manifest(recipe.name, unreleased(files), "sklearn", fitted.lineage, {}), files)


@pytest.fixture(scope="session")
def champions(tmp_path_factory):
    root = tmp_path_factory.mktemp("champions")
    return {name: make(root / name, recipe, rows(), refits=5) for name, (recipe, rows) in BASES.items()}


# -- what is done to them


def refit(champion, base, folder, rows=None, **changes):
    "Another model by the same recipe, but for what is said"
    recipe, usual = BASES[base]
    made = {k: changes.pop(k) for k in tuple(changes) if k in ("seed", "held_out")}
    params = changes.pop("params", {})
    return make(folder, replace(recipe, **changes), (rows or (lambda all_: all_))(usual()), **made, **params)


def field(champion, base, folder, name, **changes):
    "The same model under a contract with a changed field"
    fields = tuple(replace(f, **changes) if f.name == name else f for f in champion.contract.fields)
    return replace(champion, contract=replace(champion.contract, fields=fields))


def fields(champion, base, folder, change):
    return replace(champion, contract=replace(champion.contract, fields=change(champion.contract.fields)))


def output(champion, base, folder, **changes):
    changed = replace(champion.contract.output, **changes)
    return replace(champion, contract=replace(champion.contract, output=changed))


def manifest(champion, base, folder, **changes):
    return replace(champion, manifest=replace(champion.manifest, **changes))


def made_by(champion, base, folder, **changes):
    return manifest(champion, base, folder, lineage=replace(champion.manifest.lineage, **changes))


def forgetful(champion, base, folder):
    "A bundle from before bundles remembered their making, of another model"
    other = refit(champion, base, folder, params={"C": 0.8})
    kept = {k: v for k, v in other.manifest.files.items() if k not in ("lineage.json", "held_out.json")}
    return replace(other, manifest=replace(other.manifest, files=kept))


def turn(rows, every):
    "Give every n-th row the label of the next class"
    target = "income" if "income" in rows else "wine"
    names = sorted(rows[target].unique())
    turned = rows[target].map({name: names[(i + 1) % len(names)] for i, name in enumerate(names)})
    return rows.assign(**{target: rows[target].astype(str).where(np.arange(len(rows)) % every > 0, turned.astype(str))})


def add(*new):
    return lambda old: (*old, *new)


def rename_age(champion, base, folder):
    def change(old):
        return tuple(replace(f, name="years") if f.name == "age" else f for f in old)

    return fields(champion, base, folder, change)


def rows_of(start, stop):
    return lambda rows: everybody().iloc[start:stop]


WITHOUT_ALCOHOL = tuple(wine.load(Path()).columns[1:-1])
R, F, O, M = refit, field, output, manifest  # noqa: E741
CASES = [  # name, base, what is done, level, rule that decides
    # contract: fields
    ("field removed", "linear", partial(fields, change=lambda old: old[1:]), "major", "I1 removed"),
    ("field renamed", "linear", rename_age, "major", "I1 renamed"),
    ("integer to number", "linear", partial(F, name="age", kind="number"), "minor", "I3 kind"),
    ("number to integer", "diabetes", partial(F, name="bmi", kind="integer"), "major", "I3 kind"),
    ("category to text", "linear", partial(F, name="sex", kind="text", levels=None), "minor", "I3 kind"),
    ("integer to category", "linear", partial(F, name="age", kind="category", levels=("1",)), "major", "I3 kind"),
    ("number to category", "wine", partial(F, name="proline", kind="category", levels=("1",)), "major", "I3 kind"),
    ("made required", "linear", partial(F, name="workclass", nullable=False), "major", "I4 required"),
    ("made optional", "diabetes", partial(F, name="bmi", nullable=True), "minor", "I5 optional"),
    ("refused range narrowed", "linear", partial(F, name="age", high=99), "major", "I6 domain"),
    ("refused range widened", "diabetes", partial(F, name="age", high=150), "minor", "I6 domain"),
    ("refused range opened", "wine", partial(F, name="alcohol", high=None), "minor", "I6 domain"),
    ("open range closed", "linear", partial(F, name="capital-gain", high=99_999), "major", "I6 domain"),
    ("warned range narrowed", "wine", partial(F, name="proline", high=1500.0), "patch", "I7 seen"),
    ("warned range widened", "diabetes", partial(F, name="bmi", high=99.0), "patch", "I7 seen"),
    ("warn becomes refuse", "linear", partial(F, name="sex", outside="refuse"), "major", "I6 domain"),
    ("refuse becomes warn", "linear", partial(F, name="age", outside="warn"), "minor", "I6 domain"),
    ("warn becomes accept", "wine", partial(F, name="proline", outside="accept"), "patch", "I7 seen"),
    ("optional field added", "wine", partial(fields, change=add(Field("year", "integer", True))), "minor", "I2 added"),
    ("required field added", "wine", partial(fields, change=add(Field("year", "integer"))), "major", "I2 added"),
    ("fields reordered", "diabetes", partial(fields, change=lambda old: old[::-1]), "patch", "I8 order"),
    ("made private", "diabetes", partial(F, name="bmi", private=True), "minor", "I10 private"),
    ("description changed", "wine", partial(F, name="alcohol", description="Strength"), "patch", "I9 words"),
    # contract: the answer
    ("class gone", "wine", partial(O, classes=("Barbera", "Barolo")), "major", "O1 class gone"),
    ("class renamed", "wine", partial(O, classes=("Barbera", "Barolo", "Grignolino d'Asti")), "major", "O1 class gone"),
    (
        "class added",
        "wine",
        partial(O, classes=("Barbera", "Barolo", "Dolcetto", "Grignolino")),
        "minor",
        "O2 class added",
    ),
    (
        "third class beside two",
        "linear",
        partial(O, task="multiclass", classes=("<=50K", ">50K", ">500K")),
        "minor",
        "O2 class added",
    ),
    ("classes reordered", "wine", partial(O, classes=("Grignolino", "Barolo", "Barbera")), "major", "O3 order"),
    ("classes become numbers", "wine", partial(O, task="regression", classes=()), "major", "O4 task"),
    ("another target", "diabetes", partial(O, target="relapse"), "major", "O5 target"),
    ("another unit", "diabetes", partial(O, unit="percent"), "major", "O6 unit"),
    ("unit no longer said", "diabetes", partial(O, unit=""), "patch", "O6 unit"),
    ("the other class is positive", "linear", partial(O, positive="<=50K"), "patch", "O7 positive"),
    # how it was made
    ("another name", "wine", partial(M, name="barolo"), "major", "N1 name"),
    ("another engine", "wine", partial(M, engine="plan"), "patch", "R2 engine"),
    ("other libraries", "wine", partial(made_by, libraries={"scikit-learn": "2.0"}), "patch", "R1 libraries"),
    ("another mlserve", "wine", partial(made_by, code="9.9.9"), "none", "R3 code"),
    ("another seed, same model", "wine", partial(made_by, seed=1), "patch", "M2 seed"),
    ("the model card alone", "wine", partial(M, metrics={"accuracy": 0.5}), "none", None),
    # refits: nothing, parameters, preprocessing, estimator
    ("same again, trees", "boosted", R, "none", None),
    ("same again, regression", "diabetes", R, "none", None),
    ("more trees", "boosted", partial(R, params={"max_iter": 45}), "patch", "M2 parameters"),
    ("stumps in place of trees", "boosted", partial(R, params={"max_iter": 3, "max_depth": 1}), "minor", "B1 answers"),
    ("a little smoother", "linear", partial(R, params={"C": 0.5}), "patch", "M2 parameters"),
    ("a little smoother, wine", "wine", partial(R, params={"C": 0.5}), "patch", "M2 parameters"),
    ("far too smooth, wine", "wine", partial(R, params={"C": 1e-5}), "major", "B1 answers"),
    ("a little smoother, diabetes", "diabetes", partial(R, params={"alpha": 0.12}), "patch", "M2 parameters"),
    ("much smoother, diabetes", "diabetes", partial(R, params={"alpha": 3.0}), "minor", "B1 answers"),
    ("a flat line, diabetes", "diabetes", partial(R, params={"alpha": 1000.0}), "major", "B1 answers"),
    ("rarer categories together", "linear", partial(R, params={"min_frequency": 20}), "patch", "T1 preprocessing"),
    ("another scaler", "linear", partial(R, build=lambda: linear(scaler=StandardScaler)), "patch", "T1 preprocessing"),
    (
        "another scaler, wine",
        "wine",
        partial(R, build=lambda: wine_model(scaler=MinMaxScaler)),
        "patch",
        "T1 preprocessing",
    ),
    ("trees for a linear model", "linear", partial(R, build=boosted), "major", "M1 estimator"),
    ("a tree for a linear model", "wine", partial(R, build=wine_tree), "major", "M1 estimator"),
    (
        "ridge for elastic net",
        "diabetes",
        partial(R, build=lambda: diabetes_model(estimator=Ridge)),
        "major",
        "M1 estimator",
    ),
    ("calibrated", "linear", partial(R, build=lambda: wrapped(CalibratedClassifierCV, cv=3)), "minor", "M3 wrapper"),
    ("another threshold", "linear", partial(R, build=lambda: cut_at(0.45)), "minor", "M3 wrapper"),
    ("a threshold far off", "linear", partial(R, build=lambda: cut_at(0.05)), "major", "B1 answers"),
    # refits: the data
    ("a quarter more rows", "linear", partial(R, rows=rows_of(0, 5000)), "patch", "D1 rows"),
    ("three times the rows", "linear", partial(R, rows=rows_of(0, 12000)), "minor", "D1 rows"),
    ("the window slides a little", "boosted", partial(R, rows=rows_of(1000, 5000)), "patch", "D1 rows"),
    ("the window slides far", "boosted", partial(R, rows=rows_of(2400, 6400)), "minor", "D1 rows"),
    ("other rows", "boosted", partial(R, rows=rows_of(8000, 12000)), "major", "D1 rows"),
    ("a few rows fewer, wine", "wine", partial(R, rows=lambda rows: rows.drop(range(0, 178, 9))), "patch", "D1 rows"),
    ("half the rows, diabetes", "diabetes", partial(R, rows=lambda rows: rows.iloc[::2]), "patch", "D1 rows"),
    ("a tenth of the labels turned", "linear", partial(R, rows=partial(turn, every=10)), "minor", "D2 labels"),
    ("a third of the labels turned", "wine", partial(R, rows=partial(turn, every=3)), "major", "D2 labels"),
    ("learnt from men only", "linear", partial(R, rows=lambda rows: rows[rows["sex"] == "Male"]), "minor", "I7 lost"),
    ("other rows held out", "wine", partial(R, held_out=0.3), "patch", "D3 split"),
    ("a feature left out", "wine", partial(R, features=WITHOUT_ALCOHOL, amend={}), "major", "I1 removed"),
    ("a column more", "wine", partial(R, rows=lambda rows: rows.assign(year=1980.0)), "major", "I2 added"),
    # what is not known
    ("no memory of its making", "wine", forgetful, "patch", "P1 refit"),
]


@pytest.mark.parametrize(("name", "base", "done", "level", "rule"), CASES, ids=[c[0] for c in CASES])
def test_a_change_gets_its_level_and_its_reason(champions, tmp_path, name, base, done, level, rule):
    champion = champions[base]
    change = compare(champion, done(champion, base, tmp_path / "other"))
    said = [(r.level, r.rule, r.says, r.old, r.new, r.close) for r in change.reasons]
    assert change.level == level, said
    deciding = [r.rule for r in change.reasons if r.level == level] if level != "none" or rule else []
    assert rule in deciding if rule else not deciding, said
    assert change.reasons == tuple(sorted(change.reasons, key=lambda r: -LEVELS.index(r.level)))
    text = as_markdown(change)
    assert all(f"| {r.level} | {r.rule} |" in text for r in change.reasons)
    assert json.loads(json.dumps(as_json(change), allow_nan=False))["level"] == level


def test_the_table_is_as_long_as_promised():
    assert len(CASES) >= 40 and len({c[0] for c in CASES}) == len(CASES)
    assert {c[1] for c in CASES} == set(BASES) and {c[3] for c in CASES} == set(LEVELS)


# -- the pieces


def test_rows_are_found_again_in_sketches_of_any_size():
    ids = np.arange(20_000, dtype=np.uint64)
    old, new = mixed(ids[:10_000]), mixed(ids[4_000:14_000])
    labels = [int(i) % 3 for i in ids]
    found = overlap(sketch(old, labels[:10_000]), sketch(new, labels[4_000:14_000]))
    assert abs(found.novelty - 0.4) < 0.04 and abs(found.kept - 0.6) < 0.04 and found.relabelled == 0
    small = overlap(sketch(mixed(ids[:100]), labels[:100]), sketch(mixed(ids[50:150]), labels[50:150]))
    assert small == Overlap(0.5, 0.5, 0.0)
    grown = overlap(sketch(mixed(ids[:3_000]), labels[:3_000]), sketch(mixed(ids), labels))
    assert grown.kept == 1 and abs(grown.novelty - 0.85) < 0.03


def test_a_corrected_label_is_seen_and_a_second_row_is_not_taken_for_one():
    names = mixed(np.arange(100, dtype=np.uint64))
    old = sketch(names, ["a"] * 100)
    assert overlap(old, sketch(names, ["b"] * 7 + ["a"] * 93)).relabelled == pytest.approx(0.07)
    assert overlap(old, sketch([*names, *names[:50]], ["a"] * 100 + ["b"] * 50)).relabelled == 0


def test_the_binomial_pieces_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for k, n, p in ((0, 10, 0.3), (3, 36, 0.02), (41, 2000, 0.015), (200, 2000, 0.1), (5, 5, 0.5)):
        assert tail(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), rel=1e-9)
        assert upper(k, n) == pytest.approx(stats.beta.ppf(0.95, k + 1, n - k) if k < n else 1.0, abs=1e-9)
    assert tail(1, 10, 0.0) == 0 and tail(1, 10, 1.0) == 1 and exceeds([], 0.1, True) == 1


@pytest.mark.parametrize("flips", [True, False])
def test_what_would_have_been_too_much_is_where_the_test_turns(flips):
    moved = [1.0] * 30 + [0.0] * 970
    at = next_at(moved, 0.05, flips, 0.025)
    if flips:
        enough = round(at * 1000)
        assert tail(enough, 1000, 0.05) < 0.025 <= tail(enough - 1, 1000, 0.05)
    else:
        assert exceeds([m - 0.03 + at for m in moved], 0.05, flips) == pytest.approx(0.025)
    assert next_at([], 0.05, True, 0.025) == 1.0


def test_flips_are_counted_by_whom_they_help():
    output = Output("binary", "y", ("no", "yes"), "yes")
    said = [(0.9, 0.1), (0.1, 0.9), (0.2, 0.8), (0.6, 0.4)]
    says = [(0.4, 0.6), (0.6, 0.4), (0.3, 0.7), (0.4, 0.6)]
    b = behave(output, said, says, ["no", "no", "yes", "yes"], {"all": [True] * 4, "none": [False] * 4}, None)
    assert (b.churn, b.worse, b.better, b.floor) == (0.75, 1, 2, None)
    assert b.turned == {"no > yes": 2, "yes > no": 1} and b.kept_right == 0.5 and b.old_errors == 0
    assert [g.name for g in b.slices] == ["all"] and b.slices[0].p is None
    assert [m.turned for m in b.largest if m.was == "yes"] == ["better"]
    unknown = behave(output, said, says, None, {}, Floor(0.9, {}, 5))
    assert unknown.kept_right is None and unknown.worse == unknown.better == 0 and unknown.p_floor > 0.5


def test_a_slice_that_breaks_is_named_though_the_whole_is_calm():
    output = Output("regression", "y")
    slices = {f"g: {k}": [i % 20 == k for i in range(4000)] for k in range(20)}
    rng = np.random.default_rng(0)
    said = rng.normal(100, 30, 4000).tolist()
    says = [v + rng.normal(0, 1) + (5 if i % 20 == 3 else 0) for i, v in enumerate(said)]
    b = behave(output, said, says, said, slices, Floor(1.2, dict.fromkeys(slices, 1.2), 5))
    assert b.p_floor > 0.025 and [g.name for g in b.slices if g.p < 0.05] == ["g: 3"]


@pytest.mark.parametrize(
    ("by", "floor", "level", "close"),
    [
        (40.0, None, "major", r"less than \S+ \(\S+ of the spread\) would be patch"),
        (40.0, 1.2, "major", r"less than \S+ \(\S+ of the spread\) would be minor"),
        (1.0, None, "patch", r"\S+ \(\S+ of the spread\) would be major"),
        (2.0, 1.2, "minor", r"\S+ \(\S+ of the spread\) would be major"),
        (1.0, 1.2, "patch", r"\S+ \(\S+ of the spread\) would be minor"),
    ],
)
def test_a_move_is_told_as_a_sentence_with_the_level_beside_it(by, floor, level, close):
    said = np.random.default_rng(0).normal(100, 30, 4000).tolist()
    chance = None if floor is None else Floor(floor, {}, 5)
    (reason,) = _behaviour_reasons(behave(Output("regression", "y"), said, [v + by for v in said], said, {}, chance))
    assert (reason.rule, reason.level) == ("B1 answers", level) and re.fullmatch(close, reason.close)
    says = rf"answers moved by {by:g} \(\S+ of the spread\) on average on 4,000 held-out rows"
    assert re.fullmatch(says, reason.says)


def test_a_floor_that_cannot_be_found_says_why(champions):
    recipe = replace(
        BASES["linear"][0], build=lambda: make_pipeline(OneHotEncoder(), LogisticRegression(max_iter=1000))
    )
    recipe = replace(recipe, features=("native-country",), amend={}, slices=())
    rows = everybody().head(1500).dropna(subset=["native-country"])
    rows = rows[rows.groupby("native-country", observed=True)["age"].transform("size") > 1]
    table = make_table(recipe, rows, 0.1)
    known = set(table.part(held_out=False)[0]["native-country"])
    table = replace(table, held_out=table.held_out & table.rows["native-country"].isin(known).to_numpy())
    fitted = fit(recipe, table, Params())
    told = noise_floor(recipe, table, Params(), fitted.pipeline)
    assert set(told) == {"why"} and "unknown categories" in told["why"]
    assert noise_floor(recipe, table, Params(), fitted.pipeline, refits=0) == {"why": "no refits were asked for"}


def test_a_search_is_described_by_what_it_found():
    rows, target = wine.load(Path()).drop(columns="wine"), wine.load(Path())["wine"].to_numpy(object)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), {"logisticregression__C": [1e-6, 1.0]}
    )
    told = describe(make_pipeline(search).fit(rows, target))
    assert told["estimator"]["C"] == 1.0 and [w["class"] for w in told["wrappers"]] == ["GridSearchCV"]
    json.dumps(told, allow_nan=False)
    assert describe(boosted())["steps"]["columntransformer"]["transformers"][0][1]["unknown_value"] == "nan"


def test_the_level_can_be_raised_and_the_version_follows(champions):
    change = compare(champions["wine"], champions["wine"])
    assert change.level == "none" and next_version("v1.2.3", change) == "1.2.3"
    raised = raise_level(change, "minor", "a new purpose | of use")
    assert (
        next_version("1.2.3", raised) == "1.3.0" and raised.raised and "a new purpose \\| of use" in as_markdown(raised)
    )
    for level, why in (("patch", "smaller"), ("minor", "equal"), ("huge", "x"), ("major", " ")):
        with pytest.raises(CannotRaise):
            raise_level(raised, level, why)


def test_what_training_keeps_tells_no_rows(champions):
    bundle = champions["linear"]
    told = json.loads(bundle.read("lineage.json"))
    answered = json.loads(bundle.read("held_out.json"))
    assert len(told["sketch"]["kept"].split()) == KEPT < told["sketch"]["rows"]
    assert set(answered) == {"ids", "answers", "decided", "truth", "slices"}
    assert 0 < floor_of(bundle).overall < 0.1 and floor_of(bundle).refits == 5
    learnt = {item.split(":")[0] for item in told["sketch"]["kept"].split()}
    assert not learnt & set(answered["ids"])  # nobody is judged by what the model has learnt from


# -- bundles of older formats: kept as they were written, never made anew

OLD = Path(__file__).parent / "old"


@pytest.mark.parametrize("folder", sorted(OLD.glob("format-*/*")), ids=lambda p: p.parent.name)
def test_a_bundle_of_each_format_is_still_read_and_compared(champions, folder):
    bundle = read_bundle(folder)
    assert bundle.manifest.format == int(folder.parent.name.removeprefix("format-"))
    assert floor_of(bundle) is None and behaviour_on_shared_rows(bundle, champions["wine"]) is None
    change = compare(bundle, champions["wine"])
    assert change.level == "patch" and "M0 not known" in {r.rule for r in change.reasons}


@pytest.mark.parametrize("engine", ["plan", "sklearn"])
@pytest.mark.parametrize("folder", sorted(OLD.glob("format-*/*")), ids=lambda p: p.parent.name)
def test_a_bundle_of_each_format_still_answers_as_it_did(folder, engine):
    bundle = read_bundle(folder)
    model = load_model(replace(bundle, manifest=replace(bundle.manifest, engine=engine)))
    assert check_probe(model) == len(json.loads(bundle.read("probe.json"))["rows"]) > 10


def test_every_format_up_to_this_one_has_its_bundle():
    assert {p.name for p in OLD.iterdir()} == {f"format-{n}" for n in range(1, FORMAT + 1)}


def test_a_bundle_of_a_later_format_is_refused_in_one_sentence(tmp_path):
    (old, *_) = sorted(OLD.glob("format-*/*"))
    folder = shutil.copytree(old, tmp_path / "wine")
    later = (folder / "manifest.json").read_text().replace('"format": 1', '"format": 99')
    (folder / "manifest.json").write_text(later)
    with pytest.raises(BadBundle, match=r"has format 99, this mlserve reads up to \d+; update mlserve$"):
        read_bundle(folder)


# -- the command


def test_the_command_compares_two_folders(projects, tmp_path):
    new, old = projects["wine"] / "models" / "wine", OLD / "format-1" / "wine"
    told = mlserve(tmp_path, "compare", old, new, "--json", "--plot", "flips.png")
    assert told.returncode == 0, told.stderr
    change = json.loads(told.stdout)
    assert change["level"] in LEVELS and change["champion"].startswith("wine ")
    text = mlserve(tmp_path, "compare", old, new)
    assert text.returncode == 0 and f": {change['level']}" in text.stdout.splitlines()[0]
    assert mlserve(tmp_path, "compare", new, new, "--markdown").stdout.startswith("### wine")
    missing = mlserve(tmp_path, "compare", new, "nowhere")
    assert missing.returncode == 7 and "nowhere" in missing.stderr and "Traceback" not in missing.stderr


# -- how often an honest refit is called more than a patch by its behaviour


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_honest_refits_stay_patches(base, tmp_path):
    recipe, usual = BASES[base]
    pool = everybody() if recipe.name == "census" else usual()
    rng = np.random.default_rng(0)
    above = 0
    for trial in range(4):
        rows = len(usual()) if recipe.name == "census" else round(0.7 * len(pool))
        start = rng.permutation(len(pool))
        champion = make(tmp_path / f"champion-{trial}", recipe, pool.iloc[start[:rows]], refits=5)
        for number in range(10):  # a third of the champion's rows are replaced, and the seed is another
            kept = rng.permutation(start[:rows])[: rows - min(rows // 3, len(pool) - rows)]
            others = rng.permutation(start[rows:])[: rows - len(kept)]
            drawn = pool.iloc[np.concatenate([kept, others])]
            challenger = make(tmp_path / f"{trial}-{number}", recipe, drawn, seed=number + 1)
            reasons = compare(champion, challenger).reasons
            above += any(r.rule.startswith("B") and r.level in ("minor", "major") for r in reasons)
    assert above <= 2, f"{above} of 40"
