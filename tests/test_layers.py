"The rules that keep the layers apart"

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "sklearn",
    "pandas",
    "numpy",
    "scipy",
    "dvc",
    "nbdev",
    "fastcore",
    "IPython",
    "matplotlib",
    "pandera",
    "skops",
    "pyarrow",
}
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
EXPORTED = re.compile(r'^\s*"#\s*\|\s*default_exp ([\w.]+)', re.MULTILINE)  # a line of a cell, not of a text in it


def exports(notebook):
    found = EXPORTED.search(notebook.read_text(encoding="utf-8"))
    return found[1] if found else None


NUMBER = {exports(notebook): notebook.name[:2] for notebook in NOTEBOOKS}
EXAMPLES = {exports(notebook): "19" for notebook in (ROOT / "nbs/examples").glob("*.ipynb")}  # they stand on layer 1x
# loading a model may import what it needs, inside a function; importing a module of these layers may not
LIGHT = sorted(module for module, number in NUMBER.items() if number[0] in "0234")


def imported(tree):
    "(module of mlserve, at the top of the file?) for each import of one"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level == 1 or (node.module or "").startswith("mlserve.")):
            yield (node.module or "").removeprefix("mlserve."), node in tree.body


def violations(number, tree):
    "Modules of this number or a higher one that a module imports"
    return [module for module, _ in imported(tree) if module and (EXAMPLES | NUMBER).get(module, "99") >= number]


def parse(module):
    return ast.parse((ROOT / "mlserve" / f"{module}.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", NUMBER)
def test_a_notebook_imports_only_lower_numbers(module):
    assert violations(NUMBER[module], parse(module)) == []


def test_an_upward_import_is_seen():
    assert violations("02", ast.parse("from .app import create_app")) == ["app"]
    assert violations("02", ast.parse("def f():\n    from mlserve.app import create_app")) == ["app"]


def test_each_notebook_has_a_module_of_its_own():
    "Numbers may be shared: modules of one number do not import each other, as the test above sees to"
    assert None not in NUMBER
    assert len(NUMBER) == len(NOTEBOOKS)


def test_every_exported_module_still_has_its_notebook():
    package = ROOT / "mlserve"
    texts = {p.relative_to(package): p.read_text(encoding="utf-8") for p in package.rglob("*.py")}
    made = {str(p.with_suffix("")).replace("/", ".") for p, text in texts.items() if "File to edit:" in text}
    wanted = {exports(p) for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts} - {None}
    assert made == wanted


def heavy_after(code):
    script = f"import sys; {code}; print(*sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules}}))"
    return subprocess.check_output([sys.executable, "-c", script], text=True).split()


def first_heavy(modules):
    "The first of these modules that loads something heavy, and what; they are imported one after the other"
    script = f"""
import sys
from importlib import import_module
for module in {modules!r}:
    import_module("mlserve." + module)
    if found := sorted({HEAVY!r} & {{name.split(".")[0] for name in sys.modules}}):
        print(module, *found)
        break
"""
    return subprocess.check_output([sys.executable, "-c", script], text=True).split()


def test_the_serving_side_and_the_command_line_stay_light():
    assert len(LIGHT) > 40 and first_heavy(LIGHT) == []


def test_the_lightness_test_can_fail():
    assert "pandas" in heavy_after("import mlserve.data")
    module, *found = first_heavy([*LIGHT[:5], "data", *LIGHT[5:]])
    assert module == "data" and "pandas" in found


def test_help_answers_without_anything_heavy():
    code = (
        "from typer.testing import CliRunner; from mlserve.cli import app; help_ = CliRunner().invoke(app, ['--help'])"
    )
    assert heavy_after(f"{code}; assert help_.exit_code == 0") == []


def test_the_package_itself_is_light():
    assert heavy_after("import mlserve") == []


def test_a_pipeline_is_served_without_the_libraries_of_training():
    absent = ["yaml", "pandera", "matplotlib", "pyarrow", "PIL"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import mlserve.data, mlserve.persist, mlserve.service"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
