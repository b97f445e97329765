"What README.md promises is so"

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_curl_of_the_readme_gives_the_answer_of_the_readme(services):
    command = re.search(r"^curl .*?'$", README, re.MULTILINE | re.DOTALL)[0]
    command = command.replace("http://127.0.0.1:8000", services["census"].url)
    answer = json.loads(subprocess.check_output(["sh", "-c", command], text=True))
    shown = ast.literal_eval(re.search(r"```text\n(\{'id'.*?\})\n```", README, re.DOTALL)[1])
    assert (answer["label"], answer["model"]) == (shown["label"], shown["model"])
    assert answer["probabilities"] == pytest.approx(shown["probabilities"], abs=1e-6)
    assert answer.keys() == shown.keys() and answer["warnings"] == []


def test_the_metrics_of_the_readme_are_the_models(services, projects):
    metrics = json.loads((projects["census"] / "models/census/metrics.json").read_text())
    shown = ast.literal_eval(re.search(r"```text\n(\{'roc_auc'.*?\})\n```", README, re.DOTALL)[1])
    for name, (value, low, high) in shown.items():
        assert [metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]] == pytest.approx(
            [value, low, high], abs=1e-3
        )


def test_every_file_that_the_readme_names_is_there():
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert linked and [link for link in linked if not (ROOT / link).is_file()] == []


def test_every_make_target_that_the_readme_names_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
