"""The pipelines of the coverage table, on one small set of rows with every kind of field."""

import numpy as np
import pandas as pd
from sklearn import (
    calibration,
    compose,
    decomposition,
    dummy,
    feature_selection,
    impute,
    kernel_approximation,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    neural_network,
    svm,
    tree,
)
from sklearn import ensemble as e
from sklearn import linear_model as m
from sklearn import preprocessing as p
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline

from mlserve.contract import Contract, Field, Output

JOBS = ("baker", "clerk", "cook", "farmer", "nurse", "pilot", "smith", "teacher")
REGIONS = ("east", "north", "south", "west")
NUMBERS, GAPS, WORDS, FLAG = ["age", "hours", "gain", "rate"], ["score"], ["job", "region"], ["member"]
FIELDS = (
    Field("age", "integer"),
    Field("hours", "integer"),
    Field("gain", "number"),
    Field("rate", "number"),
    Field("score", "number", nullable=True),
    Field("job", "category", levels=JOBS),
    Field("region", "category", nullable=True, levels=REGIONS),
    Field("member", "boolean"),
)


def rows(count=1500, seed=7):
    "A frame with integers, numbers, missing values, categories and booleans, and its three targets"
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.integers(17, 91, count),
            "hours": rng.integers(1, 100, count),
            "gain": np.round(rng.lognormal(5, 2, count) * (rng.random(count) < 0.4), 2),
            "rate": rng.normal(0, 1, count),
            "score": np.where(rng.random(count) < 0.15, np.nan, rng.normal(600, 80, count)),
            "job": pd.Series(rng.choice(JOBS, count, p=[0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.015, 0.005]), dtype=object),
            "region": pd.Series(rng.choice(REGIONS, count), dtype=object).mask(rng.random(count) < 0.1, np.nan),
            "member": rng.random(count) < 0.4,
        }
    )
    signal = (
        (frame.age - 50) / 20 + np.log1p(frame.gain) / 3 + frame.rate + frame.member * 0.5 - (frame.region == "west")
    )
    signal += frame.job.isin(["nurse", "pilot", "clerk"]) + frame.score.fillna(500) / 200 - 4
    noisy = (signal + rng.normal(0, 0.7, count)).to_numpy(float)
    three = np.array(["low", "middle", "top"], object)[np.digitize(noisy, [-0.5, 1.0])]
    yes = np.where(noisy > 0.3, "yes", "no").astype(object)
    return frame, {"binary": yes, "multiclass": three, "regression": noisy}


def contract(task):
    "The contract of these rows"
    classes = {"binary": ("no", "yes"), "multiclass": ("low", "middle", "top"), "regression": ()}[task]
    return Contract(FIELDS, Output(task, "target", classes))


def onehot(**options):
    return p.OneHotEncoder(**{"handle_unknown": "ignore", **options})


def ordinal(**options):
    return p.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, **options)


def mixed(numbers=None, words=None, gaps=None):
    "The usual preprocessing: each group of columns has its transformer"
    parts = [
        ("words", onehot() if words is None else words, WORDS),
        ("numbers", p.StandardScaler() if numbers is None else numbers, NUMBERS),
        ("gaps", impute.SimpleImputer() if gaps is None else gaps, GAPS),
    ]
    return ColumnTransformer([*parts, ("flag", "passthrough", FLAG)])


def dense(**options):
    return mixed(words=onehot(sparse_output=False), **options)


def forest(count=10):
    return e.RandomForestClassifier(count, max_depth=6, random_state=0)


def logistic():
    return m.LogisticRegression(max_iter=300, tol=1e-2)


def small_tree():
    return tree.DecisionTreeClassifier(max_depth=5, random_state=0)


class Homemade(p.StandardScaler):
    "Looks like a scaler, but who knows"


def halved(x):
    return x / 2


def scalers():
    "Transformers of numbers -> pipeline; most before a forest, which is unforgiving, some before a linear model"
    bins = {"quantile_method": "averaged_inverted_cdf"}
    union = FeatureUnion(
        [("scaled", p.StandardScaler()), ("bins", p.KBinsDiscretizer(3, **bins))], transformer_weights={"scaled": 0.3}
    )

    def before_forest(step):
        return make_pipeline(mixed(step), forest())

    def before_linear(step):
        return make_pipeline(mixed(step), logistic())

    scaled = p.StandardScaler()
    return {
        "StandardScaler": before_forest(p.StandardScaler()),
        "StandardScaler (sparse)": make_pipeline(mixed(), p.StandardScaler(with_mean=False), forest()),
        "MinMaxScaler (clip)": before_forest(p.MinMaxScaler(clip=True)),
        "MaxAbsScaler": before_forest(p.MaxAbsScaler()),
        "RobustScaler": before_forest(p.RobustScaler()),
        "KBinsDiscretizer (onehot)": before_forest(p.KBinsDiscretizer(4, **bins)),
        "KBinsDiscretizer (ordinal, after scaling)": before_forest(
            make_pipeline(scaled, p.KBinsDiscretizer(5, encode="ordinal", strategy="uniform"))
        ),
        "Binarizer": before_forest(p.Binarizer(threshold=3.0)),
        "PowerTransformer": before_forest(p.PowerTransformer()),
        "PowerTransformer (linear model)": before_linear(p.PowerTransformer()),
        "QuantileTransformer": before_forest(p.QuantileTransformer(n_quantiles=50)),
        "QuantileTransformer (normal, linear model)": before_linear(
            p.QuantileTransformer(n_quantiles=50, output_distribution="normal")
        ),
        "PolynomialFeatures": before_forest(make_pipeline(scaled, p.PolynomialFeatures(2, include_bias=False))),
        "PolynomialFeatures (degree 3, linear model)": make_pipeline(
            dense(), p.PolynomialFeatures(3, interaction_only=True), logistic()
        ),
        "SplineTransformer": before_linear(p.SplineTransformer(n_knots=4)),
        "SplineTransformer (linear outside)": before_linear(
            p.SplineTransformer(n_knots=4, degree=2, extrapolation="linear", include_bias=False)
        ),
        "SplineTransformer (continued outside)": before_linear(
            make_pipeline(p.RobustScaler(), p.SplineTransformer(degree=1, extrapolation="continue"))
        ),
        "FunctionTransformer (abs, sqrt)": before_forest(
            make_pipeline(scaled, p.FunctionTransformer(np.abs), p.FunctionTransformer(np.sqrt))
        ),
        "FunctionTransformer (tanh)": before_linear(make_pipeline(scaled, p.FunctionTransformer(np.tanh))),
        "FeatureUnion": before_forest(union),
        "FunctionTransformer (own function)": before_linear(p.FunctionTransformer(halved)),
        "FunctionTransformer (square of integers)": before_linear(p.FunctionTransformer(np.square)),
        "a subclass of StandardScaler": before_linear(Homemade()),
    }


def encoders():
    "Encoders and imputers -> pipeline"
    s, rare = impute.SimpleImputer, {"handle_unknown": "infrequent_if_exist"}
    some = make_column_transformer((onehot(), ["hours", "member", "job"]), remainder="drop")

    def words(step):
        return make_pipeline(mixed(words=step), forest())

    def gaps(step):
        return make_pipeline(mixed(gaps=step), forest())

    return {
        "OneHotEncoder": words(onehot()),
        "OneHotEncoder (infrequent, drop)": words(onehot(min_frequency=0.05, drop="first", **rare)),
        "OneHotEncoder (max_categories)": words(onehot(max_categories=3, **rare)),
        "OneHotEncoder (error, drop if_binary)": words(onehot(handle_unknown="error", drop="if_binary")),
        "OneHotEncoder (integers, booleans)": make_pipeline(some, forest()),
        "OrdinalEncoder": words(ordinal(encoded_missing_value=-2)),
        "TargetEncoder": words(p.TargetEncoder(random_state=0)),
        "SimpleImputer (mean)": gaps(s()),
        "SimpleImputer (median, indicator)": gaps(s(strategy="median", add_indicator=True)),
        "SimpleImputer (most_frequent, text)": words(make_pipeline(s(strategy="most_frequent"), onehot())),
        "SimpleImputer (constant, text)": words(make_pipeline(s(strategy="constant", fill_value="none"), onehot())),
        "MissingIndicator": gaps(impute.MissingIndicator()),
        "KNNImputer": gaps(impute.KNNImputer()),
    }


def choosers():
    "Selectors and projections -> pipeline"
    f = feature_selection
    inner = make_column_transformer((onehot(), ["job"]), remainder=ordinal())
    nested = make_column_transformer((inner, WORDS), ("drop", ["rate"]), remainder="passthrough")
    return {
        "SelectKBest": make_pipeline(mixed(), f.SelectKBest(k=8), forest()),
        "SelectFromModel": make_pipeline(mixed(), f.SelectFromModel(forest()), forest()),
        "VarianceThreshold": make_pipeline(mixed(), f.VarianceThreshold(0.05), forest()),
        "RFE": make_pipeline(dense(), f.RFE(small_tree(), n_features_to_select=6, step=3), forest()),
        "PCA (linear model)": make_pipeline(dense(), decomposition.PCA(5, whiten=True), logistic()),
        "TruncatedSVD (linear model)": make_pipeline(
            mixed(), decomposition.TruncatedSVD(5, random_state=0), logistic()
        ),
        "ColumnTransformer (nested, remainder)": make_pipeline(nested, e.HistGradientBoostingClassifier(max_iter=8)),
        "PCA (forest)": make_pipeline(dense(), decomposition.PCA(5), forest()),
        "Nystroem": make_pipeline(dense(), kernel_approximation.Nystroem(n_components=5, random_state=0), logistic()),
    }


def classifiers():
    hist = {"max_iter": 12, "max_leaf_nodes": 15, "random_state": 0}
    coded = make_column_transformer((ordinal(), WORDS), remainder="passthrough")
    two = [("forest", forest(4)), ("tree", small_tree())]
    return {
        "DecisionTree": small_tree(),
        "ExtraTree": tree.ExtraTreeClassifier(max_depth=5, random_state=0),
        "RandomForest": forest(20),
        "RandomForest (missing values)": make_pipeline(dense(gaps="passthrough"), forest()),
        "ExtraTrees": e.ExtraTreesClassifier(10, max_depth=6, random_state=0),
        "GradientBoosting": e.GradientBoostingClassifier(n_estimators=15, random_state=0),
        "HistGradientBoosting": e.HistGradientBoostingClassifier(**hist),
        "HistGradientBoosting (missing, categories)": make_pipeline(
            coded, e.HistGradientBoostingClassifier(categorical_features=[0, 1], **hist)
        ),
        "HistGradientBoosting (text as it comes)": make_pipeline(
            "passthrough", e.HistGradientBoostingClassifier(categorical_features=WORDS, **hist)
        ),
        "AdaBoost": e.AdaBoostClassifier(n_estimators=10, random_state=0),
        "AdaBoost (linear)": e.AdaBoostClassifier(logistic(), n_estimators=4, random_state=0),
        "Bagging": e.BaggingClassifier(small_tree(), 6, max_features=0.6, random_state=0),
        "Bagging (linear)": e.BaggingClassifier(logistic(), 4, random_state=0),
        "LogisticRegression": logistic(),
        "SGD (log loss)": m.SGDClassifier(loss="log_loss", random_state=0),
        "SGD (hinge)": m.SGDClassifier(random_state=0),
        "Perceptron": m.Perceptron(random_state=0),
        "RidgeClassifier": m.RidgeClassifier(),
        "LinearSVC": svm.LinearSVC(random_state=0),
        "LinearDiscriminantAnalysis": make_pipeline(dense(), LinearDiscriminantAnalysis()),
        "GaussianNB": make_pipeline(dense(), naive_bayes.GaussianNB()),
        "BernoulliNB": naive_bayes.BernoulliNB(),
        "MultinomialNB": make_pipeline(mixed(p.MinMaxScaler(clip=True)), naive_bayes.MultinomialNB()),
        "MLP": neural_network.MLPClassifier((8,), max_iter=12, random_state=0),
        "Dummy": dummy.DummyClassifier(),
        "Voting (soft)": e.VotingClassifier(two, voting="soft", weights=[2, 1]),
        "Voting (hard)": e.VotingClassifier([*two, ("linear", logistic())]),
        "Stacking": e.StackingClassifier(two, logistic(), cv=2),
        "Stacking (a tree over trees, passthrough)": e.StackingClassifier(two, small_tree(), cv=2, passthrough=True),
        "Calibrated (sigmoid)": calibration.CalibratedClassifierCV(forest(4), cv=2),
        "Calibrated (isotonic)": calibration.CalibratedClassifierCV(forest(4), method="isotonic", cv=2),
        "Calibrated (linear, isotonic)": calibration.CalibratedClassifierCV(svm.LinearSVC(), method="isotonic", cv=2),
        "OneVsRest": multiclass.OneVsRestClassifier(small_tree()),
        "OneVsRest (linear)": multiclass.OneVsRestClassifier(logistic()),
        "GridSearchCV": model_selection.GridSearchCV(small_tree(), {"max_depth": [2, 4]}, cv=2),
        "KNeighbors": neighbors.KNeighborsClassifier(),
        "SVC": svm.SVC(),
        "Stacking (a tree over a linear model)": e.StackingClassifier([("linear", logistic())], small_tree(), cv=2),
    }


def binary_only():
    coded = make_column_transformer((ordinal(), WORDS), remainder="passthrough", verbose_feature_names_out=False)
    monotone = e.HistGradientBoostingClassifier(
        max_iter=10, categorical_features=WORDS, monotonic_cst={"age": 1, "rate": 1}
    )
    return {
        "GradientBoosting (exponential)": e.GradientBoostingClassifier(
            n_estimators=10, loss="exponential", random_state=0
        ),
        "HistGradientBoosting (monotone)": make_pipeline(coded.set_output(transform="pandas"), monotone),
        "FixedThreshold": model_selection.FixedThresholdClassifier(forest(), threshold=0.3),
        "FixedThreshold (decision)": model_selection.FixedThresholdClassifier(
            svm.LinearSVC(random_state=0), threshold=0.2, pos_label="no"
        ),
        "TunedThreshold": model_selection.TunedThresholdClassifierCV(logistic(), cv=2),
    }


def regressors():
    hist, trees = {"max_iter": 10, "random_state": 0}, tree.DecisionTreeRegressor(max_depth=4, random_state=0)
    pair = [("tree", trees), ("linear", m.Ridge())]
    target = compose.TransformedTargetRegressor
    return {
        "DecisionTree": tree.DecisionTreeRegressor(max_depth=6, random_state=0),
        "ExtraTree": tree.ExtraTreeRegressor(max_depth=6, random_state=0),
        "RandomForest": e.RandomForestRegressor(15, max_depth=6, random_state=0),
        "ExtraTrees": e.ExtraTreesRegressor(10, max_depth=6, random_state=0),
        "GradientBoosting": e.GradientBoostingRegressor(n_estimators=15, random_state=0),
        "HistGradientBoosting": e.HistGradientBoostingRegressor(**hist),
        "HistGradientBoosting (poisson)": e.HistGradientBoostingRegressor(loss="poisson", **hist),
        "Bagging": e.BaggingRegressor(n_estimators=5, random_state=0, max_features=0.7),
        "LinearRegression": m.LinearRegression(),
        "Ridge": m.Ridge(),
        "Lasso": m.Lasso(0.01),
        "ElasticNet": m.ElasticNet(0.01),
        "SGD": m.SGDRegressor(random_state=0),
        "BayesianRidge": make_pipeline(dense(), m.BayesianRidge()),
        "Huber": make_pipeline(dense(), p.StandardScaler(), m.HuberRegressor(max_iter=500)),
        "Poisson": make_pipeline(dense(), p.StandardScaler(), m.PoissonRegressor()),
        "Gamma": make_pipeline(dense(), p.StandardScaler(), m.GammaRegressor()),
        "Tweedie": make_pipeline(dense(), p.StandardScaler(), m.TweedieRegressor(power=1.5)),
        "MLP": neural_network.MLPRegressor(hidden_layer_sizes=(8,), activation="tanh", max_iter=12, random_state=0),
        "Dummy": dummy.DummyRegressor(),
        "Voting": e.VotingRegressor(pair),
        "Voting (trees, weights)": e.VotingRegressor(
            [("a", trees), ("b", tree.DecisionTreeRegressor(max_depth=2))], weights=[2, 1]
        ),
        "Stacking": e.StackingRegressor(pair, m.Ridge(), cv=2),
        "TransformedTarget (scaler)": target(trees, transformer=p.StandardScaler()),
        "TransformedTarget (log1p)": target(trees, func=np.log1p, inverse_func=np.expm1),
        "AdaBoost": e.AdaBoostRegressor(n_estimators=4, random_state=0),
        "GaussianProcess": make_pipeline(dense(), GaussianProcessRegressor()),
    }


def cases():
    "(group, name, task, pipeline) for each row of the table; the pipelines are not fitted yet"
    found = [("transformer", name, "binary", pipe) for name, pipe in {**scalers(), **encoders(), **choosers()}.items()]
    encoded = make_pipeline(mixed(words=p.TargetEncoder(random_state=0)), forest())
    found.append(("transformer", "TargetEncoder (several classes)", "multiclass", encoded))
    tables = [
        ("binary", classifiers()),
        ("multiclass", classifiers()),
        ("binary", binary_only()),
        ("regression", regressors()),
    ]
    for task, table in tables:
        for name, step in table.items():
            found.append((task, name, task, step if hasattr(step, "steps") else make_pipeline(mixed(), step)))
    return found


def target_for(name, target):
    "Some losses want positive targets"
    positive = ("Poisson", "Gamma", "Tweedie", "poisson", "log1p")
    return np.exp(target / 3) if target.dtype == float and any(word in name for word in positive) else target
