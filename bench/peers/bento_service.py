"BentoML: a service with one endpoint for a row and one that collects rows of several callers."

import os

import bentoml
import pandas as pd
import skops.io
from row import Row


@bentoml.service
class Census:
    def __init__(self):
        path = os.environ["BENCH_PIPELINE"]
        self.pipeline = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))

    @bentoml.api
    def predict(self, row: Row) -> dict:
        return {"label": self.pipeline.predict(pd.DataFrame([row.model_dump(by_alias=True)]))[0]}

    @bentoml.api(batchable=True)
    def predict_many(self, rows: list[Row]) -> list[str]:
        return self.pipeline.predict(pd.DataFrame([row.model_dump(by_alias=True) for row in rows])).tolist()
