"The service everyone learns to write: a pydantic model, a DataFrame of one row, the pipeline."

import os

import pandas as pd
import skops.io
from fastapi import FastAPI
from row import Row

PATH = os.environ["BENCH_PIPELINE"]  # written by this benchmark a moment ago, so every type in it is trusted
pipeline = skops.io.load(PATH, trusted=skops.io.get_untrusted_types(file=PATH))
app = FastAPI()


@app.post("/predict")
def predict(row: Row):
    frame = pd.DataFrame([row.model_dump(by_alias=True)])
    return {"label": pipeline.predict(frame)[0]}
