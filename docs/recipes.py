"""A trained bundle of each recipe that ships, for the pages that show its card and its files.

Training gives the same bytes wherever it runs, so a bundle is used again as long as what it was made from is the same: the
modules that training imports, the recipe, the data that ships, the pinned libraries and Python. The tests train each recipe
anyway; what they made is kept here, and a build of the site after them trains nothing.
"""

import ast
import os
import shutil
import sys
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

from mlserve.bundle import Bundle, read_bundle
from mlserve.retrain import train
from mlserve.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mlserve"
KEPT = ROOT / "docs/_build/recipes"
# weeks is data, no model
RECIPES = sorted({path.stem for path in (ROOT / "nbs/examples").glob("*.ipynb")} - {"weeks"})


def imported(module: Path) -> set[Path]:
    "The modules of the package that `module` imports, also inside its functions"
    named = [node for node in ast.walk(ast.parse(module.read_bytes())) if isinstance(node, ast.ImportFrom)]
    # `from .x`, `from ..x` and `from mlserve.x` are the ways in which modules name one another
    names = [n.module if n.level else n.module.removeprefix("mlserve.") for n in named if n.module]
    return {path for name in names if (path := PACKAGE.joinpath(*name.split(".")).with_suffix(".py")).is_file()}


def modules_of(name: str) -> list[Path]:
    "Every module that training a recipe reads"
    found: set[Path] = set()
    waiting = {PACKAGE / "retrain.py", PACKAGE / "examples" / f"{name}.py"}
    while waiting:
        found |= waiting
        waiting = set().union(*map(imported, waiting)) - found
    return sorted(found)


@cache
def made_from(name: str) -> str:
    "A hash of everything that decides what training a recipe gives"
    told = sha256(sys.version.encode())
    beside = [PACKAGE / "__init__.py", *sorted((PACKAGE / "data").iterdir()), ROOT / ".ci/lock.txt"]
    for path in [*modules_of(name), *beside]:
        told.update(f"{path.relative_to(ROOT)}\n".encode() + sha256(path.read_bytes()).digest())
    return told.hexdigest()


def keep(project: Path, name: str) -> None:
    "Keep what was trained in a project; readers see the old or the new folder, never half of one"
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        shutil.copytree(project / "models", new / "models")
        shutil.copyfile(project / "settings.ini", new / "settings.ini")
        (new / "made_from.txt").write_text(made_from(name), encoding="utf-8")
        if (KEPT / name).exists():
            os.replace(KEPT / name, old)
        os.replace(new, KEPT / name)


def project_of(name: str) -> Path:
    "A project in which a recipe that ships is trained"
    said = KEPT / name / "made_from.txt"
    if not said.exists() or said.read_text(encoding="utf-8") != made_from(name):
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder)
            (made / "settings.ini").write_text(f"[model]\nrecipe = mlserve.examples.{name}:recipe\n", encoding="utf-8")
            train(load_settings(made, environ={}))
            keep(made, name)
    return KEPT / name


def bundle_of(name: str) -> Bundle:
    "The bundle of a recipe that ships"
    return read_bundle(project_of(name) / "models" / name)
