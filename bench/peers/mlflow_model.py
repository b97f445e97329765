"MLflow: store the pipeline as a model of its own kind, which `mlflow models serve` then serves."

import os
import shutil
import sys

import mlflow.sklearn
import skops.io

path, folder = os.environ["BENCH_PIPELINE"], sys.argv[1]
trusted = skops.io.get_untrusted_types(file=path)
shutil.rmtree(folder, ignore_errors=True)
mlflow.sklearn.save_model(
    skops.io.load(path, trusted=trusted), folder, serialization_format="skops", skops_trusted_types=trusted
)
