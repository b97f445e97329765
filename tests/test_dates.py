"Every day of the calendar through a served model, as scikit-learn answers it"

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mlserve.contract import Contract, Field, Output
from mlserve.data import frame_of_rows
from mlserve.dates import date_parts
from tests.served import Served, bundle_of

CONTRACT = Contract(
    (
        Field("size", "number", example=1.0),
        Field("until", "date", nullable=True, low="2020-01-01", high="2024-12-31", example="2024-05-17"),
    ),
    Output("regression", "price"),
)
DAYS = (
    "0001-01-01",
    "1600-01-01",
    "1677-09-20",
    "2024-02-29T08:30:00.123457",
    "2262-04-12",
    "2300-01-01",
    "9999-12-31",
)
ROWS = [{"size": 1.0, "until": day} for day in DAYS]
DATED = ("mlserve.dates.date_parts",)
PIPELINES = {
    "plan": make_pipeline(make_column_transformer(("passthrough", ["size"])), LinearRegression()),  # looks at no date
    "sklearn": make_pipeline(
        make_column_transformer(("passthrough", ["size"]), (FunctionTransformer(date_parts), ["until"])),
        HistGradientBoostingRegressor(min_samples_leaf=1),
    ),
}


@pytest.mark.parametrize("engine", PIPELINES)
def test_a_date_outside_nanoseconds_is_answered(engine, tmp_path):
    pipeline, draw = PIPELINES[engine], np.random.default_rng(3)
    days = [f"{draw.integers(1500, 2500)}-{month:02}-15" for month in draw.integers(1, 13, 60)]
    train = [{"size": float(size), "until": day} for size, day in zip(draw.random(60), days, strict=True)]
    pipeline.fit(frame_of_rows(CONTRACT.fields, train), draw.random(60))
    served = Served(bundle_of(tmp_path / "model", pipeline, CONTRACT, train[:5], DATED))
    assert served.model.bundle.manifest.engine == engine
    wanted = pipeline.predict(frame_of_rows(CONTRACT.fields, ROWS)).tolist()
    headers = [(b"content-type", b"application/json")]
    for row, value in zip(ROWS, wanted, strict=True):
        status, _, body = served.ask(json.dumps(row).encode(), headers)
        answer = json.loads(body)
        assert (status, answer.get("value")) == (200, value), (row, answer)
        outside = not "2020" < row["until"] < "2025"
        assert [warning["field"] for warning in answer["warnings"]] == ["until"] * outside
    status, _, body = served.ask(json.dumps(ROWS).encode(), headers)
    assert (status, [answer["value"] for answer in json.loads(body)]) == (200, wanted)


def test_ordinary_moments_have_the_days_they_had():
    draw = np.random.default_rng(5).integers(-(2**53), 2**53, 10_000)
    moments = pd.Series(draw.view("datetime64[us]"))
    before = (moments - pd.Timestamp(0)) / pd.Timedelta(days=1)  # in nanoseconds
    assert date_parts(pd.DataFrame({"moment": moments}))[:, 0].tolist() == before.tolist()
