"""A stored pipeline runs nothing: attacks, damage, foreign code and other versions all end in one sentence."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from functools import cache, partial

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.interpolate
import scipy.stats
import sklearn
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import Birch
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_files
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RandomizedSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from mlserve import persist
from mlserve.errors import MlserveError
from mlserve.persist import (
    CLASSES,
    FUNCTIONS,
    LARGEST,
    LOSSES,
    DamagedModel,
    MissingCode,
    OpensFiles,
    OtherVersion,
    UnstorablePipeline,
    UntrustedModel,
    _as_bytes,
    _find,
    _names,
    _pack,
    _unpack,
    allowed,
    check_versions,
    dump_pipeline,
    load_pipeline,
    untrusted_names,
)

X = np.random.RandomState(0).gamma(2.0, 1.0, (60, 3))
Y = np.where(X[:, 0] > 1.5, "yes", "no").astype(object)
TEXTS = np.array(["good day", "bad day", "fine", "ugly"] * 15, dtype=object)

FITTED = {
    "linear": make_pipeline(StandardScaler(), FunctionTransformer(np.arctan), LogisticRegression()),
    "forest": make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0)),
    "boosting": make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=3, random_state=0)),
    "histogram": make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=3, random_state=0)),
    "categories": make_pipeline(
        FunctionTransformer(np.floor),
        HistGradientBoostingClassifier(max_iter=3, categorical_features=[0, 1, 2], min_samples_leaf=2, random_state=0),
    ),
    "neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier(algorithm="kd_tree", leaf_size=5)),
    "balls": make_pipeline(StandardScaler(), KNeighborsClassifier(algorithm="ball_tree", leaf_size=5)),
}


@cache
def stored(name: str = "linear") -> bytes:
    return dump_pipeline(FITTED[name].fit(X, Y))


def opened(data: bytes) -> tuple[dict, dict[str, bytes]]:
    members = _unpack(data)
    return json.loads(members.pop("schema.json")), members


def closed(schema, members) -> bytes:
    return _pack({"schema.json": _as_bytes(schema)} | members)


def node(name: str, loader: str = "FunctionNode", **rest) -> dict:
    module, _, kind = name.rpartition(".")
    return {"__class__": kind, "__module__": module, "__loader__": loader} | rest


def text(value: object) -> dict:
    return node("builtins.str", "JsonNode", content=json.dumps(value), is_json=True)


def several(*nodes: dict, kind: str = "tuple") -> dict:
    return node(f"builtins.{kind}", f"{kind.title()}Node", content=list(nodes))


def mapping(**nodes: dict) -> dict:
    keys = several(*[node("builtins.str", "TypeNode") for _ in nodes], kind="list")
    return node("builtins.dict", "DictNode", content=nodes, key_types=keys)


def steps(schema: dict) -> list[dict]:
    "The estimators of the stored pipeline"
    return [pair["content"][1] for pair in schema["content"]["content"]["steps"]["content"]]


def with_function(evil: dict) -> bytes:
    "The linear pipeline with `evil` in the place of its function"
    schema, members = opened(stored())
    steps(schema)[1]["content"]["content"]["func"] = evil
    return closed(schema, members)


def with_root(**change: object) -> bytes:
    schema, members = opened(stored())
    return closed(schema | change, members)


# --- names ------------------------------------------------------------------------------------------------------------


OLD, NEW = "scipy._lib.array_api_compat.numpy._aliases.asarray", "scipy.interpolate._bsplines._BSpline"
OTHER_SCIPY = OLD if hasattr(scipy.interpolate._bsplines, "_BSpline") else NEW  # what a spline has with another scipy


@pytest.mark.parametrize("name", sorted((_names(CLASSES) | _names(FUNCTIONS) | _names(LOSSES)) - {OTHER_SCIPY}))
def test_what_the_list_names_exists_in_the_installed_scikit_learn(name):
    assert callable(_find(name))
    assert isinstance(_find(name), type) == (name not in _names(FUNCTIONS))


def test_a_model_of_another_scipy_says_what_it_misses():
    with pytest.raises((MissingCode, DamagedModel), match=r"scipy\._lib|AttributeError"):
        load_pipeline(with_function(node(OTHER_SCIPY, "FunctionNode" if OTHER_SCIPY == OLD else "ObjectNode")))


def test_the_list_of_functions_holds_none_that_loads_or_runs():
    functions = [
        name for name in allowed()["FunctionNode"] if name == OTHER_SCIPY or not isinstance(_find(name), np.ufunc)
    ]
    assert len(functions) < 60
    dangerous = ("load", "open", "fetch", "file", "exec", "eval", "system", "import", "save", "dump", "pickle", "apply")
    assert [name for name in functions if any(word in name.rpartition(".")[2] for word in dangerous)] == []
    assert {name.split(".")[0] for name in functions} == {"numpy", "scipy", "sklearn"}


CANARY = "import pathlib; pathlib.Path('canary').touch()"
COMMAND = several(text("touch canary"))


def called(name: str, *args: object) -> dict:
    "A partial that is ready to go off"
    return node(
        "functools.partial",
        "PartialNode",
        content={"func": node(name), "args": several(*map(text, args)), "kwds": mapping(), "namespace": text(None)},
    )


ATTACKS = {
    "os.system as a function": (with_function, node("os.system")),
    "os.system under its other name": (with_function, node("posix.system")),
    "eval as a type": (with_function, node("builtins.eval", "TypeNode")),
    "exec made as an object": (with_function, node("builtins.exec", "ObjectNode", content=mapping())),
    "getattr": (with_function, node("builtins.getattr", "TypeNode")),
    "__import__": (with_function, node("builtins.__import__", "TypeNode")),
    "Popen called by its reduce": (
        with_function,
        node("subprocess.Popen", "ConstructorFromReduceNode", content=COMMAND),
    ),
    "memmap called by its reduce": (
        with_function,
        node("numpy.memmap", "ConstructorFromReduceNode", content=several(text("canary"), text("uint8"), text("w+"))),
    ),
    "memmap as an array": (with_function, node("numpy.memmap", "NdArrayNode", type="numpy", file="1.npy")),
    "FileIO called by its reduce": (
        with_function,
        node("_io.FileIO", "ConstructorFromReduceNode", content=several(text("canary"), text("w"))),
    ),
    "partial of os.system": (with_function, called("os.system", "touch canary")),
    "partial of numpy.load": (with_function, called("numpy.load", "/etc/passwd", None, True)),
    "partial of f2py": (with_function, called("numpy.f2py.compile", "x")),
    "partial of joblib.load": (with_function, called("joblib.load", "x.joblib")),
    "partial of a loader of scikit-learn": (with_function, called("sklearn.datasets._base.load_files", "/")),
    "partial of a download of scikit-learn": (with_function, called("sklearn.datasets._openml.fetch_openml", "x")),
    "joblib by way of scikit-learn": (with_function, node("sklearn.utils.parallel.joblib.load")),
    "a module by way of numpy": (with_function, node("numpy.os.system")),
    "partial of a partial": (
        with_function,
        node("functools.partial", "PartialNode", content={"func": called("os.system", "x"), "args": several()}),
    ),
    "a partial of a class": (
        with_function,
        node(
            "functools.partial",
            "PartialNode",
            content={
                "func": node("builtins.dict", "TypeNode"),
                "args": several(),
                "kwds": mapping(),
                "namespace": text(None),
            },
        ),
    ),
    "methodcaller": (with_function, node("operator.methodcaller", "OperatorFuncNode", attrs=COMMAND)),
    "attrgetter": (with_function, node("operator.attrgetter", "OperatorFuncNode", attrs=several(text("__class__")))),
    "any function of operator": (with_function, node("operator.call", "OperatorFuncNode", attrs=COMMAND)),
    "a method of an allowed object": (
        with_function,
        node(
            "sklearn.linear_model._logistic.LogisticRegression",
            "MethodNode",
            content={
                "func": "set_params",
                "obj": node("sklearn.linear_model._logistic.LogisticRegression", "ObjectNode", content=mapping()),
            },
        ),
    ),
    "a loader nobody knows": (with_function, node("os.system", "CustomNode")),
    "a default factory": (
        with_function,
        node(
            "collections.defaultdict",
            "DefaultDictNode",
            content={"main": mapping(), "default_factory": node("os.system")},
        ),
    ),
    "a function as the type of a key": (
        with_function,
        node(
            "builtins.dict",
            "DictNode",
            content={"touch canary": text(1)},
            key_types=several(node("os.system"), kind="list"),
        ),
    ),
    "an allowed function as the type of a key": (
        with_function,
        node("builtins.dict", "DictNode", content={"1": text(1)}, key_types=several(node("numpy.log1p"), kind="list")),
    ),
    "an estimator as the type of a key": (
        with_function,
        node(
            "builtins.dict",
            "DictNode",
            content={"1": text(1)},
            key_types=several(node("sklearn.linear_model._logistic.LogisticRegression", "TypeNode"), kind="list"),
        ),
    ),
    "types of keys that are not written out": (
        with_function,
        node("builtins.dict", "DictNode", content={"1": text(1)}, key_types=text(["x"])),
    ),
    "a mapping class of one's own": (
        with_function,
        node("os._Environ", "DictNode", content={}, key_types=several(kind="list")),
    ),
    "a list class of one's own": (with_function, node("subprocess.Popen", "ListNode", content=[text("touch canary")])),
    "a set class of one's own": (with_function, node("subprocess.Popen", "SetNode", content=[text("touch canary")])),
    "a named tuple of one's own": (with_function, node("os.stat_result", "TupleNode", content=[text(1)])),
    "a loss class of one's own": (
        with_function,
        node("subprocess.Popen", "LossNode", content=mapping(), __reduce__={"args": several(text("touch canary"))}),
    ),
    "a reduce with a class of its own": (
        with_function,
        node("subprocess.Popen", "TreeNode", content=mapping(), __reduce__={"args": several(text("touch canary"))}),
    ),
    "a bit generator of one's own": (
        with_function,
        node(
            "numpy.random._generator.Generator",
            "RandomGeneratorNode",
            content={"bit_generator": mapping(bit_generator=text("set_bit_generator")), "seed_seq": mapping()},
        ),
    ),
    "a distribution, which runs the code it is given": (
        with_function,
        node(
            "scipy.stats._distn_infrastructure.rv_continuous",
            "ObjectNode",
            content=mapping(_parse_arg_template=text(CANARY)),
        ),
    ),
    "a reader of foreign bytes": (with_function, node("builtins.bytearray", "BytearrayNode", file="1.npy")),
    "an old protocol with looser rules": (
        lambda evil: with_root(protocol=0, content=evil),
        mapping(f=node("os.system")),
    ),
    "a protocol of the future": (lambda evil: with_root(protocol=evil), 99),
    "a dotted class": (with_function, node("os.path.os.system")),
    "an object that only looks like text": (with_function, node("os.system", "JsonNode", content="1")),
    "code instead of a pipeline": (lambda evil: with_root(**evil), node("os.system")),
    "a name with a megabyte": (with_function, node("x." + "y" * 1_000_000)),
    "a name that writes to the terminal": (with_function, node("x.\x1b[31m\nred")),
    "a loader that writes to the terminal": (with_function, node("x.\x1b[31m\nred", "\x1b[31m\n")),
}


@pytest.fixture(scope="module")
def heard():
    "What Python's audit hooks heard while `heard` was open: a list, or None while it is closed"
    state = {"events": None}
    watched = {
        "os.system",
        "subprocess.Popen",
        "os.posix_spawn",
        "os.exec",
        "pickle.find_class",
        "socket.connect",
        "open",
    }

    def hook(event, args):
        if state["events"] is not None and event in watched:
            state["events"].append((event, str(args)[:80]))

    sys.addaudithook(hook)
    return state


@pytest.fixture
def quiet(heard, tmp_path, monkeypatch):
    "Fail if a command, a pickle, a file, a connection or an import comes out of what the test loads"
    stored()
    monkeypatch.chdir(tmp_path)
    modules, heard["events"] = set(sys.modules), []
    yield
    events, heard["events"] = heard["events"], None
    assert events == []
    assert set(sys.modules) - modules == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_runs_nothing_and_is_told_in_one_sentence(name, quiet):
    build, evil = ATTACKS[name]
    with pytest.raises((UntrustedModel, DamagedModel)) as refused:
        load_pipeline(build(evil))
    assert len(str(refused.value)) < 500
    assert str(refused.value).isascii() and str(refused.value).isprintable()


def test_the_refusal_names_what_it_found():
    with pytest.raises(
        UntrustedModel, match=r"needs os\.system, which mlserve does not load by itself; if that is code"
    ):
        load_pipeline(with_function(node("os.system")))
    with pytest.raises(UntrustedModel, match=r"operator\.methodcaller \(OperatorFuncNode\).*no setting allows that"):
        load_pipeline(with_function(ATTACKS["methodcaller"][1]))


@pytest.mark.parametrize(
    "name", ["methodcaller", "a method of an allowed object", "a loader nobody knows", "Popen called by its reduce"]
)
def test_trust_does_not_open_what_is_never_loaded(name, quiet):
    build, evil = ATTACKS[name]
    everything = (f"{evil['__module__']}.{evil['__class__']}", "os.system", "subprocess.Popen", "operator.methodcaller")
    with pytest.raises(UntrustedModel, match="no setting allows that"):
        load_pipeline(build(evil), trusted=everything)


def test_trust_in_a_function_does_not_let_the_file_call_it(quiet):
    "As the type of a key it would be called with a text of the file's choice"
    with pytest.raises(UntrustedModel, match="no setting allows that"):
        load_pipeline(
            ATTACKS["a function as the type of a key"][0](ATTACKS["a function as the type of a key"][1]),
            trusted=["os.system"],
        )


@pytest.mark.parametrize("kind", [CountVectorizer, TfidfVectorizer, HashingVectorizer])
@pytest.mark.parametrize("where", ["filename", "file"])
def test_a_vectoriser_that_opens_files_named_in_requests_is_refused(kind, where):
    pipeline = make_pipeline(kind(input=where), LogisticRegression())
    with pytest.raises(OpensFiles, match="set input='content'"):
        dump_pipeline(pipeline)


# --- arrays, trees, references ----------------------------------------------------------------------------------------


def test_arrays_of_objects_are_never_unpickled(quiet):
    class Bomb:
        def __reduce__(self):
            return exec, (CANARY,)

    np.save(buffer := io.BytesIO(), np.array([Bomb()], dtype=object), allow_pickle=True)
    schema, members = opened(stored())
    for name in members:
        with pytest.raises(DamagedModel):
            load_pipeline(closed(schema, members | {name: buffer.getvalue()}))
        with pytest.raises(DamagedModel):
            load_pipeline(closed(schema, members | {name: pickle.dumps(Bomb())}))


def npy(shape: str, tail: bytes = b"", kind: str = "<f8") -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + tail


@pytest.mark.parametrize(
    "array",
    [
        npy("(100000000000,)"),
        npy("(1,)", b"\0" * 16),
        npy("(9,)", b"\0" * 8),
        npy("(10**9,)"),
        npy("(10,)", kind="V0"),
        b"PK",
    ],
)
def test_an_array_is_as_long_as_its_head_says(array):
    schema, members = opened(stored())
    with pytest.raises(DamagedModel):
        load_pipeline(closed(schema, {name: array for name in members}))


def test_a_sparse_matrix_with_indices_out_of_range_is_refused():
    pipeline = make_pipeline(CountVectorizer(), SVC(kernel="linear")).fit(TEXTS, Y)
    schema, members = opened(dump_pipeline(pipeline))
    name = next(name for name in members if name.endswith(".npz"))
    inner = {}
    with zipfile.ZipFile(io.BytesIO(members[name])) as file:
        for part in file.namelist():
            inner[part] = file.read(part)
    indices = np.load(io.BytesIO(inner["indices.npy"])) + 10_000
    np.save(buffer := io.BytesIO(), indices)
    for bad in (_pack(inner | {"indices.npy": buffer.getvalue()}, zipfile.ZIP_STORED), _pack(inner)):
        with pytest.raises(DamagedModel):
            load_pipeline(closed(schema, members | {name: bad}))


def test_references_cannot_be_turned_into_loops_or_avalanches(monkeypatch):
    monkeypatch.setattr(persist, "MOST_NODES", 50_000)  # so that it need not take seconds to count that far
    schema, members = opened(stored())
    again = {"__class__": "Pipeline", "__module__": "sklearn.pipeline", "__loader__": "CachedNode", "__id__": 1}
    attributes = schema["content"]
    attributes["content"]["memory"] = again
    with pytest.raises(DamagedModel):  # an object inside itself
        load_pipeline(closed(schema | {"__id__": 1}, members))
    with pytest.raises(DamagedModel):  # an object that is not there
        load_pipeline(closed(schema, members))
    link = node("sklearn._loss.link.IdentityLink", "ObjectNode", content=mapping(), __id__=1)
    chain = [link]
    for number in range(2, 40):  # each holds the one before twice: 2 ** 38 nodes to walk
        inner = {
            "__class__": "IdentityLink",
            "__module__": "sklearn._loss.link",
            "__loader__": "CachedNode",
            "__id__": number - 1,
        }
        chain.append(
            node("sklearn._loss.link.IdentityLink", "ObjectNode", content=mapping(a=inner, b=inner), __id__=number)
        )
    attributes["content"]["memory"] = several(*chain, kind="list")
    with pytest.raises(DamagedModel, match="again and again"):
        load_pipeline(closed(schema, members))


@pytest.mark.parametrize(
    ("depth", "why"), [(150, "nested too deeply"), (20_000, "RecursionError"), (500_000, "RecursionError")]
)
def test_deep_nesting_is_refused(depth, why):
    schema, members = opened(stored())
    schema["content"]["content"]["memory"] = text("@")
    before, after = _as_bytes(schema).split(_as_bytes(text("@")))
    deep = b'{"__class__":"list","__module__":"builtins","__loader__":"ListNode","content":['
    nested = before + deep * depth + b"]}" * depth + after
    with pytest.raises(DamagedModel, match=why):
        load_pipeline(_pack({"schema.json": nested} | members))


# --- zips -------------------------------------------------------------------------------------------------------------


def test_a_zip_bomb_is_not_inflated():
    import tracemalloc

    schema, members = opened(stored())
    honest = _pack({"schema.json": _as_bytes(schema), "9.npy": b"\0" * 200_000_000} | members)
    lying = bytearray(honest)  # says that the member has 10 bytes
    size = struct.pack("<I", 200_000_000)
    while (place := lying.find(size)) >= 0:
        lying[place : place + 4] = struct.pack("<I", 10)
    tracemalloc.start()
    with pytest.raises(DamagedModel):
        load_pipeline(bytes(lying))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000

    huge = bytearray(honest)
    while (place := huge.find(size)) >= 0:
        huge[place : place + 4] = struct.pack("<I", LARGEST + 1)
    with pytest.raises(DamagedModel, match="MB"):
        load_pipeline(bytes(huge))


def test_a_member_that_is_shorter_than_it_says_is_refused():
    members = _unpack(stored())
    data = bytearray(_pack(members | {"99.npy": b"\0" * 77_777}))
    while (place := data.find(struct.pack("<I", 77_777))) >= 0:
        data[place : place + 4] = struct.pack("<I", 88_888)
    with pytest.raises(DamagedModel, match="not as long as it says"):
        load_pipeline(bytes(data))


@pytest.mark.parametrize(
    "name", ["../evil.npy", "/etc/evil.npy", "a/b.npy", "C:evil.npy", "evil.pkl", "__main__.py", "1.npy\n"]
)
def test_members_with_strange_names_are_refused(name, quiet):
    members = _unpack(stored())
    with pytest.raises(DamagedModel, match="members"):
        load_pipeline(_pack(members | {name: b"x"}))


def test_a_member_that_is_there_twice_is_refused(recwarn):
    buffer = io.BytesIO(stored())
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr("schema.json", "{}")
    recwarn.clear()
    with pytest.raises(DamagedModel, match="members"):
        load_pipeline(buffer.getvalue())


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(how):
    with pytest.raises(DamagedModel, match="compressed"):
        load_pipeline(_pack(_unpack(stored()), how))


def pickles():
    joblib.dump(LogisticRegression(), plain := io.BytesIO())
    joblib.dump(LogisticRegression(), packed := io.BytesIO(), compress=3)
    joblib.dump(LogisticRegression(), zipped := io.BytesIO(), compress=("gzip", 3))
    return [pickle.dumps(LogisticRegression(), protocol=p) for p in (2, 3, 4, 5)] + [
        b.getvalue() for b in (plain, packed, zipped)
    ]


@pytest.mark.parametrize("data", pickles(), ids=range(7))
def test_a_pickle_is_called_a_pickle(data, quiet):
    with pytest.raises(DamagedModel, match="looks like a pickle or a joblib file, and mlserve never loads those"):
        load_pipeline(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"cos\nsystem\n(S'touch canary'\ntR.", b"<html>", b"\0" * 1000, zlib.compress(b"x"), stored()[:-1]],
)
def test_what_is_not_a_skops_file_is_refused(data, quiet):
    with pytest.raises(DamagedModel):
        load_pipeline(data)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"1", b"{}", b'"x"', b"\xff", b'{"protocol": 2}', b"NaN"])
def test_a_schema_that_is_none_is_refused(text):
    with pytest.raises(DamagedModel):
        load_pipeline(_pack({"schema.json": text}))


def test_a_file_of_plain_skops_is_not_one_of_ours():
    with pytest.raises(DamagedModel):
        load_pipeline(skops.io.dumps(FITTED["linear"].fit(X, Y)))


def test_something_that_predicts_nothing_is_refused():
    with pytest.raises(DamagedModel, match="a StandardScaler predicts nothing"):
        dump_pipeline(StandardScaler().fit(X))


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_an_estimator_that_occurs_twice_stays_one():
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    pipeline.other_, pipeline.values_ = pipeline[1], pipeline[1].coef_
    data = dump_pipeline(pipeline)
    again = load_pipeline(data)
    assert again.other_ is again[1]
    assert data.count(b".npy") == dump_pipeline(pipeline.fit(X, Y)).count(b".npy")


def test_an_array_mapped_from_disk_is_stored_as_an_array(tmp_path):
    pipeline = make_pipeline(KNeighborsClassifier(algorithm="brute")).fit(X, Y)
    mapped = np.memmap(tmp_path / "x", pipeline[0]._fit_X.dtype, "w+", shape=X.shape)
    mapped[:] = pipeline[0]._fit_X
    before, pipeline[0]._fit_X = dump_pipeline(pipeline), mapped
    assert dump_pipeline(pipeline) == before
    assert type(load_pipeline(before)[0]._fit_X) is np.ndarray


def test_a_set_has_no_order():
    pipeline, words = make_pipeline(LogisticRegression()).fit(X, Y), [f"w{number}" for number in range(50)]
    pipeline.words_ = set(words)
    before, pipeline.words_ = dump_pipeline(pipeline), set(reversed(words))
    assert dump_pipeline(pipeline) == before
    assert load_pipeline(before).words_ == set(words)


def test_the_home_of_a_function_does_not_depend_on_who_imported_it_first(tmp_path):
    (tmp_path / "early.py").write_text("from scipy.special import expit")
    code = """
import {first}, sys
from scipy.special import expit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.linear_model import LogisticRegression
from mlserve.persist import dump_pipeline
pipeline = make_pipeline(FunctionTransformer(expit), LogisticRegression()).fit([[0.0], [1.0]], [0, 1])
sys.stdout.buffer.write(dump_pipeline(pipeline))
"""
    runs = [[sys.executable, "-c", code.format(first=first)] for first in ("early", "scipy.special")]
    early, late = (subprocess.run(run, cwd=tmp_path, capture_output=True, check=True).stdout for run in runs)
    assert early and early == late
    assert untrusted_names(early) == ()


def test_what_comes_back_otherwise_is_refused():
    pipeline = make_pipeline(LogisticRegression()).fit(X, Y)
    pipeline.empty_ = np.empty((0, 3), dtype=object)  # skops forgets the three
    with pytest.raises(UnstorablePipeline, match="does not come back as it was"):
        dump_pipeline(pipeline)


# --- damage -----------------------------------------------------------------------------------------------------------


def damaged(data: bytes, rng: np.random.RandomState) -> bytes:
    found, place = bytearray(data), rng.randint(len(data))
    kind, length = rng.randint(6), rng.randint(1, 40)
    if kind == 0:
        found[place] ^= 1 << rng.randint(8)
    elif kind == 1:
        found[place : place + length] = rng.bytes(length)
    elif kind == 2:
        del found[place : place + length]
    elif kind == 3:
        found[place:place] = rng.bytes(length)
    elif kind == 4:
        del found[place:]
    else:
        found[place:place] = found[rng.randint(len(data)) :][:length]
    return bytes(found)


@pytest.mark.parametrize("name", ["linear", "forest"])
def test_a_damaged_file_is_refused_or_loads_as_it_was(name, quiet):
    data, rng, survived = stored(name), np.random.RandomState(0), 0
    for _ in range(300):
        try:
            again = load_pipeline(damaged(data, rng))
        except MlserveError as error:
            assert len(str(error)) < 500
        else:
            survived += 1
            assert dump_pipeline(again) == data
    assert survived < 100  # dates, rights and the like in the zip may change without a difference


def test_a_changed_schema_is_refused_or_is_still_only_a_pipeline(quiet):
    "The zip is whole here, so that every damage reaches the audit"
    members, rng, refused = _unpack(stored()), np.random.RandomState(1), 0
    for _ in range(300):
        changed = members | {"schema.json": damaged(members["schema.json"], rng)}
        try:
            assert isinstance(load_pipeline(_pack(changed)), Pipeline)
        except MlserveError as error:
            refused += 1
            assert len(str(error)) < 500 and str(error).isascii()
    assert refused > 200


FUZZ = """
import io, sys
import numpy as np
from test_persist import X, FITTED, stored, opened, closed
from mlserve.errors import MlserveError
from mlserve import persist
from mlserve.persist import load_pipeline

rng, loaded = np.random.RandomState(2), 0
for name in FITTED:
    schema, members = opened(stored(name))
    trees = [m for m in members if m.endswith(".npy") and np.load(io.BytesIO(members[m])).dtype.names]
    if name in ("neighbours", "balls"):
        trees += [m for m in members if np.load(io.BytesIO(members[m])).dtype.kind == "i"]
    for _ in range(100 if trees else 0):
        member = trees[rng.randint(len(trees))]
        array = np.load(io.BytesIO(members[member]))
        part = array[array.dtype.names[rng.randint(len(array.dtype.names))]] if array.dtype.names else array
        if part.dtype.kind in "iu":
            wild = rng.choice([-1, -2, 0, 1, 2, 7, len(array), 10**6, 2**31 - 1, -(2**31), 2**40, -(2**60)])
            part[rng.randint(len(part))] = np.array(wild).astype(part.dtype)
        np.save(buffer := io.BytesIO(), array)
        try:
            pipeline = load_pipeline(closed(schema, members | {member: buffer.getvalue()}))
        except MlserveError:
            continue
        loaded += 1
        pipeline.predict(X * 100)
print(loaded)
"""


@pytest.mark.slow
def test_a_tree_that_loads_never_crashes_the_process():
    "In a process of its own, since a tree that leads out of its array ends a process without a word"
    run = subprocess.run(
        [sys.executable, "-c", FUZZ], cwd=__file__.rpartition("/")[0], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 100


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("forest", "left_child", 10**9),
        ("forest", "right_child", -5),
        ("forest", "left_child", 0),
        ("forest", "feature", 3),
        ("forest", "feature", -1),
        ("boosting", "left_child", 10**9),
        ("histogram", "left", 2**31),
        ("histogram", "right", 0),
        ("histogram", "feature_idx", 3),
        ("categories", "bitset_idx", 2**31),
        ("neighbours", "idx_end", 10**9),
        ("neighbours", "idx_start", -1),
        ("balls", "is_leaf", 0),
    ],
)
def test_a_tree_that_leads_astray_is_refused(name, column, value):
    schema, members = opened(stored(name))
    changed = 0
    for member, content in members.items():
        array = np.load(io.BytesIO(content))
        if array.dtype.names and column in array.dtype.names:
            leaves = array["is_leaf"] if "is_leaf" in array.dtype.names else array["left_child"] == -1
            chosen = slice(None) if name in ("neighbours", "balls") else leaves == 0
            array[column][chosen] = value
            np.save(buffer := io.BytesIO(), array)
            members[member], changed = buffer.getvalue(), changed + 1
    assert changed
    with pytest.raises(DamagedModel, match="not sound"):
        load_pipeline(closed(schema, members))


@pytest.mark.parametrize("name", ["forest", "boosting", "histogram"])
def test_an_ensemble_says_how_many_columns_it_takes(name):
    schema, members = opened(stored(name))
    ensemble = steps(schema)[1]["content"]
    ensemble["content"]["n_features_in_"] = text(0)
    with pytest.raises(DamagedModel, match="not sound"):
        load_pipeline(closed(schema, members))
    place = list(ensemble["content"]).index("n_features_in_")
    del ensemble["content"]["n_features_in_"], ensemble["key_types"]["content"][place]
    with pytest.raises(DamagedModel):
        load_pipeline(closed(schema, members))


def test_a_tree_says_how_many_columns_it_takes():
    schema, members = opened(stored("forest"))
    tree = steps(schema)[1]["content"]["content"]["estimators_"]["content"][1]["content"]
    place = list(tree["content"]).index("n_features_in_")
    del tree["content"]["n_features_in_"], tree["key_types"]["content"][place]
    with pytest.raises(DamagedModel):
        load_pipeline(closed(schema, members))


def test_the_trees_of_an_isolation_forest_see_the_columns_they_are_given():
    forest = make_pipeline(IsolationForest(n_estimators=3, max_features=2, random_state=0)).fit(X)
    schema, members = opened(dump_pipeline(forest))
    held = steps(schema)[0]["content"]["content"]
    held["estimators_features_"]["content"][0] = held["estimators_features_"]["content"][1]
    load_pipeline(closed(schema, members))
    held["_max_features"] = text(3)
    with pytest.raises(DamagedModel, match="not sound"):
        load_pipeline(closed(schema, members))


def test_a_tree_that_is_mentioned_again_suits_its_second_owner():
    "A tree of four columns is sound in its own forest and leads astray in another of three"
    wide, narrow = (HistGradientBoostingClassifier(max_iter=1, random_state=0) for _ in range(2))
    wide.fit(np.c_[np.zeros((60, 3)), X], Y)
    pipeline = make_pipeline(narrow.fit(X, Y))
    pipeline.wide_ = wide
    narrow._predictors = wide._predictors
    with pytest.raises(DamagedModel, match="not sound"):
        dump_pipeline(pipeline)
    narrow.extra_, narrow._predictors = wide, wide._predictors
    with pytest.raises(DamagedModel, match="not sound"):
        dump_pipeline(pipeline)


# --- code of the project ----------------------------------------------------------------------------------------------

MODULE = """
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

def ratio(rows):
    return rows / (1 + rows.sum(axis=1, keepdims=True))

class Clip(TransformerMixin, BaseEstimator):
    def __init__(self, most=2.0):
        self.most = most
    def fit(self, rows, y=None):
        self.seen_ = len(rows)
        return self
    def transform(self, rows):
        return np.minimum(rows, self.most)

class Holder:
    def held(rows):
        return rows

def maker(k):
    def inner(rows):
        return rows * k
    def ratio(rows):
        return rows * k
    return inner, ratio

half = lambda rows: rows / 2
"""


@pytest.fixture
def features(tmp_path, monkeypatch):
    (tmp_path / "ownfeatures.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import ownfeatures

    yield ownfeatures
    sys.modules.pop("ownfeatures", None)


def test_code_of_the_project_loads_when_the_recipe_names_it(features):
    pipeline = make_pipeline(FunctionTransformer(features.ratio), features.Clip(1.5), LogisticRegression()).fit(X, Y)
    names = ("ownfeatures.Clip", "ownfeatures.ratio")
    with pytest.raises(
        UntrustedModel, match=r"ownfeatures\.Clip, ownfeatures\.ratio.*under `trusted` in the recipe"
    ) as refused:
        dump_pipeline(pipeline)
    assert refused.value.names == names
    data = dump_pipeline(pipeline, trusted=names)
    assert untrusted_names(data) == names
    with pytest.raises(UntrustedModel, match="Clip"):
        load_pipeline(data, trusted=names[1:])
    again = load_pipeline(data, trusted=names)
    assert again[1].seen_ == 60 and again[0].func is features.ratio
    np.testing.assert_array_equal(again.predict_proba(X), pipeline.predict_proba(X))


def test_one_name_given_as_text_is_that_name_alone(features):
    pipeline = make_pipeline(FunctionTransformer(features.ratio), LogisticRegression()).fit(X, Y)
    assert load_pipeline(dump_pipeline(pipeline, "ownfeatures.ratio"), "ownfeatures.ratio")[0].func is features.ratio
    with pytest.raises(UntrustedModel):
        dump_pipeline(pipeline, "my.ownfeatures.ratios")


def test_code_that_is_not_installed_is_named(features, monkeypatch):
    pipeline = make_pipeline(FunctionTransformer(features.ratio), LogisticRegression()).fit(X, Y)
    data = dump_pipeline(pipeline, trusted=["ownfeatures.ratio"])
    monkeypatch.delattr(features, "ratio")
    with pytest.raises(MissingCode, match=r"ownfeatures\.ratio, which cannot be imported here; install"):
        load_pipeline(data, trusted=["ownfeatures.ratio"])
    monkeypatch.setitem(sys.modules, "ownfeatures", None)
    with pytest.raises(MissingCode):
        load_pipeline(data, trusted=["ownfeatures.ratio"])


class Local(TransformerMixin, BaseEstimator):
    def fit(self, rows, y=None):
        return self

    def transform(self, rows):
        return rows


def test_code_of_one_process_is_refused_by_the_name_of_its_parameter(features):
    inner, shadow = features.maker(2)
    here = type("Here", (Local,), {"__module__": "__main__"})
    inline = eval("lambda rows: rows", {"__name__": "__main__"})
    for step, name in [
        (FunctionTransformer(lambda rows: rows), "functiontransformer__func is a lambda"),
        (FunctionTransformer(inline), "functiontransformer__func is a lambda"),
        (FunctionTransformer(partial(lambda rows, k: rows, k=1)), "functiontransformer__func is a lambda"),
        (FunctionTransformer(features.half), "functiontransformer__func is a lambda"),
        (FunctionTransformer(inner), "functiontransformer__func is inner, which no other process can import"),
        (FunctionTransformer(shadow), "functiontransformer__func is ratio, which no other process can import"),
        (FunctionTransformer(inverse_func=inline), "functiontransformer__inverse_func is a lambda"),
        (FunctionTransformer(features.Holder.held), "functiontransformer__func is held"),
        (here(), "here is Here, which no other process can import"),
        (ColumnTransformer([("own", here(), [0, 1, 2])]), "columntransformer__own is Here"),
    ]:
        pipeline = make_pipeline(step, LogisticRegression()).fit(X, Y)
        with pytest.raises(UnstorablePipeline, match=name) as refused:
            dump_pipeline(pipeline, trusted=["__main__.Here", "ownfeatures.inner", "ownfeatures.ratio"])
        assert "module" in str(refused.value)


def test_names_of_the_main_module_are_never_trusted():
    with pytest.raises(UntrustedModel, match="__main__"):
        load_pipeline(with_function(node("__main__.anything")), trusted=["__main__.anything"])


@pytest.mark.parametrize(
    ("pipeline", "why"),
    [
        (Birch(), "Birch are not supported"),
        (make_pipeline(CountVectorizer(preprocessor=str.lower), LogisticRegression()), "."),
        (make_pipeline(FunctionTransformer(kw_args={1: 2, "1": 3}), LogisticRegression()), "keys are equal as text"),
        (make_pipeline(FunctionTransformer(kw_args={"a": {None: 1}}), LogisticRegression()), "NoneType"),
        (make_pipeline(FunctionTransformer(kw_args={"a": {(1, 2): 1}}), LogisticRegression()), "cannot store"),
        (make_pipeline(FunctionTransformer(StandardScaler().fit(X).transform), LogisticRegression()), "MethodNode"),
        (make_pipeline(FunctionTransformer(load_files), LogisticRegression()), "load_files"),
        (RandomizedSearchCV(LogisticRegression(), {"C": scipy.stats.uniform(0, 1)}), "rv_continuous_frozen"),
        (Pipeline([("a", LogisticRegression())], memory=joblib.Memory(None)), "Memory"),
        (make_pipeline(FunctionTransformer(kw_args={"t": pd.Timestamp(0)}), LogisticRegression()), "."),
        ({"model": LogisticRegression()}, "a dict is no scikit-learn pipeline"),
        (None, "a NoneType is no scikit-learn pipeline"),
    ],
)
def test_what_would_not_load_is_refused_when_it_is_stored(pipeline, why):
    with pytest.raises((UnstorablePipeline, UntrustedModel), match=why) as refused:
        dump_pipeline(pipeline)
    assert len(str(refused.value)) < 500


def test_a_pipeline_inside_itself_is_refused():
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    pipeline.steps[1][1].extra_ = pipeline.steps
    with pytest.raises(UnstorablePipeline):
        dump_pipeline(pipeline)


# --- versions ---------------------------------------------------------------------------------------------------------


def of_version(version: object) -> bytes:
    schema, members = opened(stored())
    for step in (schema, *steps(schema)):
        step["content"]["content"]["_sklearn_version"] = text(version)
    return closed(schema, members)


def test_a_bug_fix_release_does_not_matter_and_warns_of_nothing(recwarn):
    minor = ".".join(sklearn.__version__.split(".")[:2])
    again = load_pipeline(of_version(f"{minor}.99"))
    assert (again.predict(X) == FITTED["linear"].fit(X, Y).predict(X)).all()
    assert len(recwarn) == 0
    check_versions({"scikit-learn": f"{minor}.dev0", "numpy": "1.0"})


@pytest.mark.parametrize("version", ["1.8.2", "2.0.0", "0.24", "1.90.1", "1", "", "nonsense", "1.9" * 100])
def test_another_minor_version_is_refused(version):
    with pytest.raises(
        OtherVersion, match=f"and {sklearn.__version__} is installed; install that version, or train again"
    ):
        check_versions({"scikit-learn": version})
    with pytest.raises(OtherVersion):
        load_pipeline(of_version(version))


def test_a_manifest_without_a_version_is_refused():
    with pytest.raises(OtherVersion, match="unknown"):
        check_versions({})


@pytest.mark.parametrize("version", [None, 1.9, ["1.9.1"]])
def test_a_version_that_is_no_text_is_refused(version):
    with pytest.raises(DamagedModel):
        load_pipeline(of_version(version))
