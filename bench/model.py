"The model that every server serves, trained once, and the rows they are sent."

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from environments import fingerprint

RECIPE = "mlserve.examples.census:census_forest"
ROWS, MANY = 200, 10_000


def clean_environment():
    "Ours, without settings of mlserve"
    dropped = ("MLSERVE_", "COVERAGE_", "COV_")
    return {k: v for k, v in os.environ.items() if not k.startswith(dropped) and k not in ("PORT", "WEB_CONCURRENCY")}


def train(work, say):
    "The folder of a project whose model is trained; trained anew only when mlserve's code has changed"
    project = work / "project"
    stamp = project / "made.txt"
    if stamp.is_file() and stamp.read_text() == fingerprint():
        return project
    say("training the forest (once)")
    project.mkdir(parents=True, exist_ok=True)
    (project / "settings.ini").write_text(f"[model]\nrecipe = {RECIPE}\n")
    mlserve = Path(sys.executable).with_name("mlserve")
    done = subprocess.run([mlserve, "train"], cwd=project, env=clean_environment(), stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit("bench: `mlserve train` failed, see above")
    unfold(work)
    stamp.write_text(fingerprint())
    return project


def unfold(work):
    "The same model beside it as if it could not be folded, for the engine sklearn"
    from mlserve.bundle import write_bundle

    shutil.rmtree(work / "project-sklearn", ignore_errors=True)
    bundle = bundle_of(work / "project")
    files = {file: bundle.read(file) for file in bundle.manifest.files if file != "plan.bin"}
    folder = work / "project-sklearn" / "models" / bundle.folder.name
    folder.parent.mkdir(parents=True)
    write_bundle(folder, replace(bundle.manifest, engine="sklearn"), files)
    shutil.copy2(work / "project" / "settings.ini", work / "project-sklearn")


def bundle_of(project):
    "The bundle of a trained project"
    from mlserve.bundle import find_bundle, read_bundle
    from mlserve.settings import load_settings

    settings = load_settings(project, environ={})
    return read_bundle(find_bundle(settings.path(settings.model.folder)))


def pipeline_of(bundle):
    "Its fitted pipeline"
    from mlserve.persist import load_pipeline

    return load_pipeline(bundle.read("pipeline.skops"), bundle.manifest.trusted)


def complete_rows(project, count, held_out):
    "Rows without gaps (so that the reference needs no care for them), spread over the data, and their labels"
    from mlserve.data import make_table
    from mlserve.examples.census import census_forest
    from mlserve.settings import load_settings

    settings = load_settings(project, environ={})
    bundle = bundle_of(project)
    table = make_table(census_forest, census_forest.load(settings.path(settings.data.folder)))
    frame = table.part(held_out=held_out)[0].dropna()
    frame = frame.iloc[:: max(1, len(frame) // count)].head(count)
    rows = json.loads(frame.to_json(orient="records"))
    return rows, pipeline_of(bundle).predict(frame).tolist()
