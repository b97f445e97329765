"""Make nbval agree with nbdev.

nbdev's cleaning drops execution counts, its directives are unknown to nbval, and a cell's code is measured as the cell's own.
Here cells without a count are compared all the same, cells that nbdev does not run are skipped, a trailing `;` hides a value
as it does in Jupyter, and with --cov an exported cell counts as the lines of the module that it becomes.
"""

import re
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["nbdev"]["lib_path"]
UNRUN = re.compile(r"^#\s*\|\s*(eval:\s*false|notest|slow)\b", re.MULTILINE | re.IGNORECASE)
DIRECTIVES = re.compile(r"\A(#\s*\|.*\n)+")
MARK = re.compile(r"^# %% (\S+\.ipynb) #(\S+)$")


@cache
def exported_cells():
    "Where each exported cell stands: (notebook, cell id) -> (module, lines before the cell's first)"
    places = {}
    for module in PACKAGE.rglob("*.py"):
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), 1):
            if mark := MARK.match(line):
                places[(module.parent / mark[1]).resolve(), mark[2]] = module, number
    return places


def as_module_lines(source, module, before):
    "Code that runs `source` under the module's name and line numbers, as coverage knows them"
    body = "\n" * before + DIRECTIVES.sub("", source)
    return f"exec(compile({body!r}, {str(module)!r}, 'exec'))"


def pytest_itemcollected(item):
    cell = getattr(item, "cell", None)
    if cell is None:
        return
    if UNRUN.search(cell.source):
        item.options["skip"] = True
    if cell.execution_count is None:
        cell.execution_count = item.cell_num + 1
    if cell.source.rstrip().endswith(";"):
        cell.source += "\nNone"
    if getattr(item.config.option, "cov_source", None):
        place = exported_cells().get((Path(item.path).resolve(), cell.get("id")))
        if place:
            cell.source = as_module_lines(cell.source, *place)
