"LitServe: setup, decode, predict, encode."

import os
import sys

import litserve
import pandas as pd
import skops.io
from row import Row


class Census(litserve.LitAPI):
    def setup(self, device):
        path = os.environ["BENCH_PIPELINE"]
        self.pipeline = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))

    def decode_request(self, request: Row):
        return pd.DataFrame([request.model_dump(by_alias=True)])

    def predict(self, frame):
        return self.pipeline.predict(frame)[0]

    def encode_response(self, label):
        return {"label": label}


if __name__ == "__main__":
    server = litserve.LitServer(Census(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
