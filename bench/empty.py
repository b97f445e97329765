"FastAPI with nothing behind it: the same body is checked, the answer is a constant."

from fastapi import FastAPI
from row import Row

app = FastAPI()


@app.post("/predict")
async def predict(row: Row):
    return {"label": "<=50K"}
