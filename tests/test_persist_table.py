"""What loads without ceremony: each pipeline here comes back as it was, and is the same bytes in every process."""

import json
import os
import subprocess
import sys
import warnings
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.special
import sklearn
import sklearn.experimental.enable_halving_search_cv
import sklearn.experimental.enable_iterative_imputer
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import FeatureAgglomeration, KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.covariance import EllipticEnvelope
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import (
    NMF,
    PCA,
    DictionaryLearning,
    FactorAnalysis,
    FastICA,
    IncrementalPCA,
    KernelPCA,
    LatentDirichletAllocation,
    MiniBatchNMF,
    SparsePCA,
    TruncatedSVD,
)
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    RandomTreesEmbedding,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import (
    RFE,
    RFECV,
    GenericUnivariateSelect,
    SelectFdr,
    SelectFpr,
    SelectFromModel,
    SelectFwe,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
    chi2,
    f_regression,
    mutual_info_classif,
    mutual_info_regression,
    r_regression,
)
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, DotProduct, ExpSineSquared, Matern, RationalQuadratic, WhiteKernel
from sklearn.impute import IterativeImputer, KNNImputer, MissingIndicator, SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.kernel_approximation import (
    AdditiveChi2Sampler,
    Nystroem,
    PolynomialCountSketch,
    RBFSampler,
    SkewedChi2Sampler,
)
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    GammaRegressor,
    HuberRegressor,
    Lars,
    LarsCV,
    Lasso,
    LassoCV,
    LassoLars,
    LassoLarsCV,
    LassoLarsIC,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    OrthogonalMatchingPursuit,
    OrthogonalMatchingPursuitCV,
    Perceptron,
    PoissonRegressor,
    QuantileRegressor,
    RANSACRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    SGDOneClassSVM,
    SGDRegressor,
    TheilSenRegressor,
    TweedieRegressor,
)
from sklearn.manifold import Isomap
from sklearn.metrics import make_scorer, mean_absolute_error
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    LeaveOneOut,
    RandomizedSearchCV,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedShuffleSplit,
    TimeSeriesSplit,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    KNeighborsTransformer,
    LocalOutlierFactor,
    NearestCentroid,
    NeighborhoodComponentsAnalysis,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
)
from sklearn.neural_network import BernoulliRBM, MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from sklearn.semi_supervised import LabelPropagation, LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
from sklearn.utils import all_estimators

from mlserve.persist import CLASSES, FUNCTIONS, LOSSES, _audit, _names, dump_pipeline, load_pipeline, untrusted_names

# --- what is stored ---------------------------------------------------------------------------------------------------

ROWS = 120


def frame(seed: int = 0) -> pd.DataFrame:
    "Rows as a pipeline sees them: numbers with gaps, categories, text, truth values, dates"
    rng = np.random.RandomState(seed)
    numbers = rng.gamma(2.0, 1.0, (ROWS, 4))
    rows = pd.DataFrame(numbers, columns=["a", "b", "c", "d"])
    rows["gap"] = np.where(rng.rand(ROWS) < 0.2, np.nan, rng.randn(ROWS))
    rows["port"] = rng.choice(np.array(["S", "C", "Q", np.nan], dtype=object), ROWS)
    rows["size"] = rng.choice(np.array(["small", "large", "äöü"], dtype=object), ROWS)
    rows["flag"] = rng.rand(ROWS) < 0.5
    rows["n"] = rng.randint(0, 5, ROWS)
    words = np.array(["good", "bad", "fine", "ugly", "__loader__", "straße"])
    rows["text"] = np.array([" ".join(words[rng.randint(0, 6, 5)]) for _ in range(ROWS)], dtype=object)
    return rows


NUMBERS = ["a", "b", "c", "d"]


def target(task: str) -> np.ndarray:
    rows = frame()
    score = rows["a"] + 0.3 * rows["b"] * rows["n"] + np.random.RandomState(1).randn(ROWS) * 0.2
    if task == "regression":
        return score.to_numpy() + 3
    if task == "binary":
        return np.where(score > score.median(), "yes", "no").astype(object)
    if task == "boolean":
        return (score > score.median()).to_numpy()
    return np.array(["low", "mid", "high"], dtype=object)[np.digitize(score, score.quantile([0.33, 0.66]))]


def after(*steps, columns=tuple(NUMBERS)):
    "Transformers of some columns, then a classifier"
    return make_pipeline(ColumnTransformer([("t", make_pipeline(*steps), list(columns))]), LogisticRegression())


def numbers(estimator):
    "An estimator that sees the number columns, scaled"
    return make_pipeline(ColumnTransformer([("t", MinMaxScaler(), NUMBERS)]), estimator)


def regressors():
    linear = Ridge()
    found = [
        LinearRegression(),
        LarsCV(cv=3),
        LassoLars(alpha=0.01),
        LassoLarsCV(cv=3),
        LassoLarsIC(),
        OrthogonalMatchingPursuit(),
        OrthogonalMatchingPursuitCV(cv=3),
        PLSRegression(),
        TweedieRegressor(power=0),
        GaussianProcessRegressor(
            Matern() + DotProduct() * RationalQuadratic() + ExpSineSquared() + RBF() ** 2,
            alpha=100.0,
            optimizer=None,
            random_state=0,
        ),
        KNeighborsRegressor(metric="minkowski", p=3),
        KNeighborsRegressor(metric="chebyshev", weights="distance"),
        make_pipeline(SelectKBest(f_regression, k=2), KNeighborsRegressor(metric="haversine", algorithm="ball_tree")),
        make_pipeline(SelectKBest(f_regression, k=2), linear),
        make_pipeline(SelectKBest(r_regression, k=2), linear),
        make_pipeline(SelectKBest(mutual_info_regression, k=2), linear),
        GridSearchCV(linear, {"alpha": range(1, 3)}, cv=TimeSeriesSplit(2)),
        GridSearchCV(linear, {"alpha": [1.0]}, cv=RepeatedKFold(n_splits=2, n_repeats=2, random_state=0)),
        GridSearchCV(linear, {"alpha": [1.0]}, cv=KFold(2, shuffle=True, random_state=0)),
        GridSearchCV(linear, {"alpha": [1.0]}, cv=ShuffleSplit(2, random_state=0)),
        GridSearchCV(linear, {"alpha": [1.0]}, cv=LeaveOneOut(), scoring="neg_mean_absolute_error"),
        HalvingGridSearchCV(linear, {"alpha": [0.1, 1.0]}, cv=2, random_state=0),
        HalvingRandomSearchCV(linear, {"alpha": [0.1, 1.0]}, cv=2, random_state=0),
        GradientBoostingRegressor(n_estimators=3, max_leaf_nodes=4, ccp_alpha=0.01, subsample=0.5, random_state=0),
        Ridge(),
        RidgeCV(),
        Lasso(alpha=0.01),
        LassoCV(cv=3),
        ElasticNet(alpha=0.01),
        ElasticNetCV(cv=3),
        Lars(),
        BayesianRidge(),
        ARDRegression(),
        SGDRegressor(random_state=0),
        PoissonRegressor(),
        GammaRegressor(),
        TweedieRegressor(power=1.5),
        HuberRegressor(),
        QuantileRegressor(),
        TheilSenRegressor(random_state=0),
        RANSACRegressor(random_state=0),
        LinearSVR(random_state=0),
        SVR(),
        NuSVR(),
        KernelRidge(kernel="rbf"),
        KNeighborsRegressor(),
        RadiusNeighborsRegressor(radius=10.0),
        MLPRegressor(hidden_layer_sizes=(5,), max_iter=20, random_state=0),
        MLPRegressor(
            hidden_layer_sizes=(5,),
            solver="sgd",
            early_stopping=True,
            max_iter=20,
            random_state=0,
            learning_rate_init=0.01,
        ),
        GaussianProcessRegressor(RBF() + WhiteKernel(), random_state=0),
        DummyRegressor(),
        DecisionTreeRegressor(random_state=0),
        DecisionTreeRegressor(criterion="absolute_error", max_leaf_nodes=9, random_state=0),
        ExtraTreeRegressor(random_state=0),
        RandomForestRegressor(5, random_state=0),
        ExtraTreesRegressor(5, random_state=0),
        GradientBoostingRegressor(n_estimators=5, random_state=0),
        GradientBoostingRegressor(n_estimators=5, loss="huber", random_state=0),
        GradientBoostingRegressor(n_estimators=5, loss="quantile", random_state=0),
        HistGradientBoostingRegressor(max_iter=5, random_state=0),
        HistGradientBoostingRegressor(max_iter=5, loss="poisson", random_state=0),
        HistGradientBoostingRegressor(max_iter=5, loss="gamma", random_state=0),
        HistGradientBoostingRegressor(max_iter=5, loss="absolute_error", random_state=0),
        HistGradientBoostingRegressor(
            max_iter=5, loss="quantile", quantile=0.8, monotonic_cst=[1, 0, 0, -1], random_state=0
        ),
        AdaBoostRegressor(n_estimators=3, random_state=0),
        BaggingRegressor(linear, 3, max_features=0.5, random_state=0),
        VotingRegressor([("a", linear), ("b", DecisionTreeRegressor(random_state=0))]),
        StackingRegressor([("a", linear), ("b", DecisionTreeRegressor(random_state=0))], cv=3, passthrough=True),
        TransformedTargetRegressor(linear, func=np.log1p, inverse_func=np.expm1),
        TransformedTargetRegressor(linear, transformer=StandardScaler()),
        GridSearchCV(
            linear, {"alpha": [0.1, 1.0]}, cv=3, scoring=make_scorer(mean_absolute_error, greater_is_better=False)
        ),
    ]
    return [(f"{type(e).__name__} {i}", numbers(e), "regression") for i, e in enumerate(found)] + [
        (
            "IsotonicRegression",
            make_pipeline(ColumnTransformer([("t", "passthrough", ["a"])]), IsotonicRegression()),
            "regression",
        )
    ]


def classifiers():
    base = LogisticRegression()
    tree = DecisionTreeClassifier(random_state=0)
    found = [
        LogisticRegression(),
        LogisticRegression(l1_ratio=1, solver="saga", max_iter=20, random_state=0),
        LogisticRegression(class_weight="balanced"),
        LogisticRegressionCV(cv=3, Cs=2, scoring="neg_log_loss", l1_ratios=(0,), use_legacy_attributes=False),
        RidgeClassifier(),
        SGDClassifier(loss="squared_hinge", random_state=0),
        SGDClassifier(loss="epsilon_insensitive", random_state=0),
        SGDClassifier(loss="squared_epsilon_insensitive", random_state=0),
        SelfTrainingClassifier(base),
        LabelSpreading(),
        LabelPropagation(),
        KMeans(3, n_init=2, random_state=0),
        MiniBatchKMeans(3, n_init=2, random_state=0),
        GaussianMixture(2, random_state=0),
        BayesianGaussianMixture(n_components=2, random_state=0),
        OneClassSVM(),
        SGDOneClassSVM(random_state=0),
        EllipticEnvelope(random_state=0),
        LocalOutlierFactor(novelty=True),
        FrozenEstimator(LogisticRegression().fit([[0.0] * 4, [1.0] * 4], ["no", "yes"])),
        GridSearchCV(base, {"C": [1.0]}, cv=StratifiedShuffleSplit(2, random_state=0)),
        RidgeClassifierCV(),
        SGDClassifier(random_state=0),
        SGDClassifier(loss="modified_huber", random_state=0),
        Perceptron(random_state=0),
        LinearSVC(random_state=0),
        SVC(probability=False),
        SVC(kernel="poly"),
        NuSVC(nu=0.2),
        GaussianNB(),
        BernoulliNB(),
        MultinomialNB(),
        ComplementNB(),
        CategoricalNB(min_categories=2),
        KNeighborsClassifier(),
        KNeighborsClassifier(algorithm="ball_tree", metric="manhattan"),
        KNeighborsClassifier(algorithm="brute"),
        RadiusNeighborsClassifier(radius=10.0),
        NearestCentroid(),
        MLPClassifier((5,), max_iter=20, random_state=0),
        MLPClassifier((5,), solver="lbfgs", max_iter=200, random_state=0),
        GaussianProcessClassifier(random_state=0),
        LinearDiscriminantAnalysis(),
        QuadraticDiscriminantAnalysis(),
        DummyClassifier(),
        DummyClassifier(strategy="stratified", random_state=0),
        DecisionTreeClassifier(random_state=0),
        DecisionTreeClassifier(max_leaf_nodes=5, random_state=0),
        DecisionTreeClassifier(ccp_alpha=0.01, random_state=0),
        ExtraTreeClassifier(random_state=0),
        RandomForestClassifier(5, random_state=0),
        RandomForestClassifier(5, oob_score=False, class_weight="balanced", random_state=np.random.RandomState(3)),
        ExtraTreesClassifier(5, random_state=0),
        GradientBoostingClassifier(n_estimators=5, random_state=0),
        AdaBoostClassifier(LogisticRegression(), n_estimators=3, random_state=0),
        GradientBoostingClassifier(n_estimators=5, init=LogisticRegression(), random_state=0),
        HistGradientBoostingClassifier(max_iter=5, random_state=0),
        HistGradientBoostingClassifier(max_iter=5, max_features=0.5, random_state=0),
        HistGradientBoostingClassifier(max_iter=9, early_stopping=True, validation_fraction=0.3, random_state=0),
        AdaBoostClassifier(n_estimators=3, random_state=0),
        BaggingClassifier(tree, 3, max_features=0.5, random_state=0),
        VotingClassifier([("a", base), ("b", tree)], voting="soft"),
        StackingClassifier([("a", base), ("b", tree)], cv=3),
        CalibratedClassifierCV(tree, cv=3),
        CalibratedClassifierCV(base, method="isotonic", cv=3, ensemble=False),
        CalibratedClassifierCV(GaussianNB(), method="temperature", cv=3),
        OneVsRestClassifier(base),
        OneVsOneClassifier(base),
        OutputCodeClassifier(base, random_state=0),
        GridSearchCV(base, {"C": [0.1, 1.0]}, cv=RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)),
        RandomizedSearchCV(base, {"C": [0.1, 1.0, 2.0]}, n_iter=2, cv=2, random_state=0, scoring="neg_log_loss"),
        RandomizedSearchCV(
            base,
            {"C": [0.1, 1.0, 2.0]},
            n_iter=2,
            cv=2,
            random_state=0,
            refit="a",
            scoring={"a": "accuracy", "b": "f1_macro"},
        ),
    ]
    both = [
        (f"{type(e).__name__} {i}", numbers(e), task) for i, e in enumerate(found) for task in ("binary", "multiclass")
    ]
    only = [
        GradientBoostingClassifier(n_estimators=3, loss="exponential", random_state=0),
        FixedThresholdClassifier(base, threshold=0.3, pos_label="yes"),
        TunedThresholdClassifierCV(base, cv=2, scoring="balanced_accuracy"),
        TunedThresholdClassifierCV(tree, cv=2, scoring=make_scorer(sklearn.metrics.f1_score, pos_label="yes")),
    ]
    return (
        both
        + [(type(e).__name__ + f" {i}", numbers(e), "binary") for i, e in enumerate(only)]
        + [
            (
                "class weights by truth value",
                numbers(LogisticRegression(class_weight={True: 3.0, False: 1.0})),
                "boolean",
            ),
            (
                "class weights by numpy truth value",
                numbers(LogisticRegression(class_weight={np.True_: 3.0, np.False_: 1.0})),
                "boolean",
            ),
            (
                "class weights by label",
                numbers(RandomForestClassifier(3, class_weight={"yes": 2, "no": 1}, random_state=0)),
                "binary",
            ),
            ("IsolationForest", numbers(IsolationForest(n_estimators=5, random_state=0)), "binary"),
            (
                "IsolationForest of some columns",
                numbers(IsolationForest(n_estimators=5, max_features=2, random_state=0)),
                "binary",
            ),
        ]
    )


def transformers():
    encode = (
        OneHotEncoder(handle_unknown="ignore"),
        OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=30),
        OneHotEncoder(drop="first", sparse_output=False),
        OneHotEncoder(handle_unknown="ignore", dtype=np.float32),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
        OrdinalEncoder(encoded_missing_value=-1, dtype=np.dtype("float32")),
        TargetEncoder(random_state=0),
        TargetEncoder(categories=[["S", "C", "Q"], ["small", "large", "äöü"]], random_state=0),
    )
    scale = (
        StandardScaler(),
        MinMaxScaler(feature_range=(0, 2)),
        MaxAbsScaler(),
        RobustScaler(),
        Normalizer(),
        Binarizer(threshold=1.0),
        PowerTransformer(),
        PowerTransformer(method="box-cox"),
        QuantileTransformer(n_quantiles=20, random_state=0),
        QuantileTransformer(n_quantiles=20, output_distribution="normal", subsample=None),
        KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"),
        KBinsDiscretizer(3, strategy="kmeans", encode="ordinal", random_state=0),
        PolynomialFeatures(2),
        SplineTransformer(),
        SplineTransformer(extrapolation="periodic", knots="quantile"),
        FunctionTransformer(np.log1p),
        FunctionTransformer(np.sqrt, inverse_func=np.square, check_inverse=False),
        FunctionTransformer(scipy.special.expit),
        FunctionTransformer(scipy.special.log1p),
        FunctionTransformer(np.abs),
        FunctionTransformer(np.clip, kw_args={"a_min": 0, "a_max": 2}),
        FunctionTransformer(np.round),
        FunctionTransformer(),
        FunctionTransformer(partial(np.clip, a_min=0, a_max=1)),
        FunctionTransformer(np.log1p, feature_names_out="one-to-one"),
        SelectKBest(k=2),
        SelectKBest(chi2, k=2),
        SelectKBest(partial(mutual_info_classif, random_state=0), k=2),
        SelectPercentile(),
        SelectFpr(alpha=0.9),
        SelectFdr(alpha=0.9),
        SelectFwe(alpha=0.9),
        GenericUnivariateSelect(mode="k_best", param=2),
        SelectFromModel(RandomForestClassifier(3, random_state=0)),
        RFE(LogisticRegression(), n_features_to_select=2),
        RFECV(LogisticRegression(), cv=2),
        SequentialFeatureSelector(LogisticRegression(), n_features_to_select=2, cv=2),
        VarianceThreshold(0.01),
        PCA(2),
        SparsePCA(2, max_iter=5, random_state=0),
        FastICA(2, max_iter=1000, random_state=0),
        FactorAnalysis(2, random_state=0),
        DictionaryLearning(2, max_iter=3, random_state=0),
        LatentDirichletAllocation(2, max_iter=2, random_state=0),
        MiniBatchNMF(2, random_state=0),
        GaussianRandomProjection(2, random_state=0),
        SparseRandomProjection(2, random_state=0),
        FeatureAgglomeration(2),
        PolynomialCountSketch(n_components=5, random_state=0),
        AdditiveChi2Sampler(),
        SkewedChi2Sampler(n_components=5, random_state=0),
        RandomTreesEmbedding(3, random_state=0),
        KNeighborsTransformer(),
        NeighborhoodComponentsAnalysis(2, max_iter=5, random_state=0),
        KMeans(3, n_init=2, random_state=0),
        BernoulliRBM(3, n_iter=2, random_state=0),
        Isomap(n_components=2),
        FunctionTransformer(np.nan_to_num),
        FunctionTransformer(np.around, kw_args={"decimals": 1}),
        PCA(0.9, svd_solver="full"),
        TruncatedSVD(2, random_state=0),
        NMF(2, max_iter=2000, random_state=0),
        KernelPCA(2, kernel="rbf"),
        Nystroem(n_components=9, random_state=0),
        RBFSampler(n_components=9, random_state=0),
    )
    fill = (
        SimpleImputer(),
        SimpleImputer(strategy="median", add_indicator=True),
        SimpleImputer(strategy="constant", fill_value=0),
        KNNImputer(n_neighbors=2),
        IterativeImputer(max_iter=3, random_state=0, tol=1.0),
        MissingIndicator(features="all"),
        IterativeImputer(
            RandomForestRegressor(2, random_state=0), max_iter=1, random_state=0, tol=1e9, skip_complete=True
        ),
    )
    text = (
        TfidfVectorizer(),
        TfidfVectorizer(max_features=4, ngram_range=(1, 2), sublinear_tf=True),
        CountVectorizer(),
        CountVectorizer(stop_words="english", vocabulary=["good", "bad"]),
        CountVectorizer(stop_words=["good", "bad", "ugly"]),
        TfidfVectorizer(min_df=2, dtype=np.float32),
        HashingVectorizer(n_features=32),
        CountVectorizer(analyzer="char", max_df=0.9, max_features=5),
        CountVectorizer(vocabulary={"good", "bad", "fine", "straße"}),
    )
    found = [(type(t).__name__ + f" {i}", after(t, columns=("port", "size")), "binary") for i, t in enumerate(encode)]
    found += [(type(t).__name__ + f" {i}", after(t), "binary") for i, t in enumerate(scale)]
    found += [(type(t).__name__ + f" {i}", after(t, columns=("gap", "a")), "binary") for i, t in enumerate(fill)]
    return found + [
        (
            f"{type(t).__name__} {i}",
            make_pipeline(ColumnTransformer([("t", t, "text")]), LogisticRegression()),
            "binary",
        )
        for i, t in enumerate(text)
    ]


def compositions():
    mixed = ColumnTransformer(
        [
            (
                "inner",
                ColumnTransformer(
                    [("s", StandardScaler(), ["a"]), ("m", MinMaxScaler(), ["b"])], remainder=RobustScaler()
                ),
                NUMBERS,
            ),
            ("gap", make_pipeline(SimpleImputer(), FunctionTransformer(np.tanh)), ["gap"]),
            ("both", FeatureUnion([("p", PCA(1)), ("k", SelectKBest(k=1))]), ["a", "n"]),
            ("words", TfidfVectorizer(), "text"),
            ("drop", "drop", ["size"]),
            ("keep", "passthrough", make_column_selector(dtype_include=bool)),
        ],
        sparse_threshold=0,
        verbose_feature_names_out=False,
    )
    chosen = ColumnTransformer(
        [
            ("s", StandardScaler(), slice("a", "c")),
            ("c", OneHotEncoder(), make_column_selector("size")),
            ("n", "passthrough", [8]),
        ]
    )
    frames = ColumnTransformer([("s", StandardScaler(), NUMBERS)]).set_output(transform="pandas")
    plain = {"remainder": "passthrough", "verbose_feature_names_out": False}
    no_text = ColumnTransformer([("t", "drop", ["text"])], **plain).set_output(transform="pandas")
    coder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    coded = ColumnTransformer([("c", coder, ["port", "size"])], **plain).set_output(transform="pandas")
    boosting = HistGradientBoostingClassifier(max_iter=5, categorical_features=["port", "size"], random_state=0)
    wide = make_pipeline(PolynomialFeatures(), DecisionTreeClassifier(random_state=0))
    words = ColumnTransformer([("t", TfidfVectorizer(), "text")])
    on_words = (
        SVC(kernel="linear"),
        KNeighborsClassifier(),
        ComplementNB(),
        SGDClassifier(random_state=0),
        LinearSVC(random_state=0),
    )
    return [
        ("everything at once", Pipeline([("prepare", mixed), ("model", LogisticRegression())]), "multiclass"),
        ("columns by slice, pattern and number", make_pipeline(chosen, LogisticRegression()), "binary"),
        (
            "frames between steps",
            make_pipeline(frames, "passthrough", RandomForestClassifier(3, random_state=0)),
            "binary",
        ),
        ("codes into boosting", make_pipeline(no_text, coded, boosting), "binary"),
        ("categories into boosting", make_pipeline(no_text, boosting), "multiclass"),
        (
            "calibrated pipeline",
            CalibratedClassifierCV(make_pipeline(clone(mixed), RandomForestClassifier(3, random_state=0)), cv=2),
            "binary",
        ),
        (
            "search over a pipeline",
            GridSearchCV(after(StandardScaler()), {"logisticregression__C": [0.1, 1.0]}, cv=2),
            "binary",
        ),
        (
            "stack of pipelines",
            StackingClassifier([("a", after(PCA(2))), ("b", numbers(RandomForestClassifier(3, random_state=0)))], cv=2),
            "multiclass",
        ),
        ("bagging of wider trees", numbers(BaggingClassifier(wide, 3, random_state=0)), "binary"),
        *[(f"words into {type(model).__name__}", make_pipeline(words, model), "multiclass") for model in on_words],
    ]


CASES = {
    f"{name} [{task}]": (pipeline, task)
    for name, pipeline, task in regressors() + classifiers() + transformers() + compositions()
}


@cache
def fitted(name: str):
    pipeline, task = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence, on a hundred rows
        return clone(pipeline).fit(frame(), target(task))


def answers(pipeline, rows: pd.DataFrame) -> dict[str, object]:
    "All that a fitted pipeline says about `rows`, bit by bit"
    found = {}
    for method in ("predict", "predict_proba", "decision_function"):
        if hasattr(pipeline, method):
            values = getattr(pipeline, method)(rows)
            found[method] = values.tolist() if values.dtype == object else (values.dtype, values.tobytes())
    return found


def parameters(pipeline) -> dict[str, str]:
    kinds = (bool, int, float, str, type, tuple, np.ufunc, type(None))
    return {
        name: repr(value) if isinstance(value, kinds) else type(value) for name, value in pipeline.get_params().items()
    }


@cache
def stored(name: str) -> bytes:
    return dump_pipeline(fitted(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_common_pipeline_comes_back_as_it_was(name):
    pipeline, again, rows = fitted(name), load_pipeline(stored(name)), frame(7)
    assert untrusted_names(stored(name)) == ()
    assert answers(again, rows) == answers(pipeline, rows)
    assert parameters(again) == parameters(pipeline)
    assert dump_pipeline(pipeline) == stored(name), "answering changed what is stored"
    assert dump_pipeline(again) == stored(name), "what was loaded is stored otherwise"


@pytest.mark.slow
def test_an_array_that_is_a_slice_of_another_comes_back_in_one_piece():
    "Then sums may be added up in another order; every load still answers the same"
    pipeline = after(IncrementalPCA(2)).fit(frame(), target("binary"))
    data, rows = dump_pipeline(pipeline), frame(7)
    again = load_pipeline(data)
    np.testing.assert_allclose(again.predict_proba(rows), pipeline.predict_proba(rows), rtol=1e-12)
    assert answers(load_pipeline(dump_pipeline(again)), rows) == answers(again, rows)


def named() -> set[str]:
    return set().union(*(_audit(stored(name))[1].names for name in CASES))


@pytest.mark.slow
def test_every_name_on_the_list_is_needed_by_a_case():
    "But for the one name that a spline only has with another scipy"
    assert len((_names(CLASSES) | _names(LOSSES) | _names(FUNCTIONS)) - named()) == 1


@pytest.mark.slow
def test_most_estimators_of_scikit_learn_are_among_the_cases():
    public = {f"{found.__module__}.{found.__name__}" for _, found in all_estimators()}
    assert len(public & named()) > 160


def hashes() -> dict[str, str]:
    "Of all but searches, which keep how many seconds each fit took"
    names = [name for name in CASES if "SearchCV" not in str(CASES[name])]
    return {name: sha256(stored(name)).hexdigest() for name in names}


@pytest.mark.slow
def test_each_process_writes_the_same_bytes():
    "Other hash seeds, other addresses, other rubbish in fresh memory, modules imported in another order"
    found = []
    for seed, rubbish, first in (("1", "85", "scipy.special"), ("2", "170", "pandas")):
        env = os.environ | {"PYTHONHASHSEED": seed, "MALLOC_PERTURB_": rubbish, "OMP_NUM_THREADS": "1"}
        code = f"import {first}, json, test_persist_table as table; print(json.dumps(table.hashes()))"
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=Path(__file__).parent, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-2000:]
        found.append(json.loads(run.stdout))
    one, other = found
    assert len(one) > 300
    assert [name for name in one if one[name] != other[name]] == []
