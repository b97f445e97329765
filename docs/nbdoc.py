"""Show nbdev notebooks as pages, without running them.

As a Sphinx extension it hands myst-nb each notebook with hidden cells gone, exported cells turned into the documentation of
what they define (with the comments beside parameters as their descriptions), and names in prose linked to it.
As a program, `python docs/nbdoc.py`, it writes README.md from nbs/index.ipynb; with --check it only says whether that is due.
"""

import ast
import re
import sys
from importlib import import_module
from pathlib import Path
from zlib import crc32

import nbformat
from fastcore.docments import docments
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent
DIRECTIVE = re.compile(r"^#\s*\|[ \t]*([\w-]+):?[ \t]*(.*?)[ \t]*(?:\n|\Z)", re.MULTILINE)
NAME_IN_PROSE = re.compile(r"(?<![`\\\w}\[])`([A-Za-z_][\w.]*)`(?!`)")
NOTEBOOK = re.compile(r"(\]\((?:[\w./-]*/)?)\d+_(\w+\.ipynb)")  # pages are called as notebooks are, without the number
FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
# what no reader needs of a signature: how a command's option is declared, and where in memory that stood
DECLARED = re.compile(r"~?(?:\w+\.)*Annotated\[(.+?), <typer\.models\.\w+ object at 0x[0-9a-f]+>\]")
UNSAID = re.compile(r"<factory>|<function \S+?<lambda>>")  # defaults that are no Python
OPTION = re.compile(r"(?<![\S`])--[a-z][a-z-]*")  # in prose its hyphens would become a dash
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


def shown_cells(notebook):
    "Each cell a reader sees, without its directives, and those directives"
    for cell in notebook.cells:
        directives = {}
        if cell.cell_type == "code":
            directives = dict(DIRECTIVE.findall(cell.source))
            cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
        if "hide" not in directives:
            yield cell, directives


def known_names(package):
    "Short name -> full name of everything the package exports"
    modules = import_module(f"{package}._modidx").d["syms"]
    return {full.removeprefix(module + "."): full for module, names in modules.items() for full in names}


def with_links(prose, names):
    "Prose in which each quoted name of the package leads to its documentation"

    def link(match):
        return f"{{py:obj}}`{match[1]} <{names[match[1]]}>`" if match[1] in names else match[0]

    parts = FENCED.split(NOTEBOOK.sub(r"\1\2", prose))
    return "".join(part if part.startswith("```") else NAME_IN_PROSE.sub(link, part) for part in parts)


def autodoc(module, source):
    "The directives that document what `source` defines in `module`"
    for node in ast.parse(source).body:
        if not isinstance(node, DEFINITIONS) or node.name.startswith("_"):
            continue
        if not isinstance(node, ast.ClassDef):
            yield f".. autofunction:: {module}.{node.name}"
            continue
        members = [m.name for m in node.body if isinstance(m, DEFINITIONS) and not m.name.startswith("_")]
        yield f".. autoclass:: {module}.{node.name}" + (f"\n   :members: {', '.join(members)}" if members else "")


def read(text, package):
    "The page of the notebook whose JSON is `text`"
    notebook = nbformat.reads(text, as_version=4)
    names, page, module = known_names(package), [], package
    for cell, directives in shown_cells(notebook):
        if "alt" in directives:
            cell.metadata["mystnb"] = {"image": {"alt": directives["alt"]}}
        if "default_exp" in directives:
            module = f"{package}.{directives['default_exp']}"
        elif "export" in directives:
            documentation = "\n\n".join(autodoc(module, cell.source))
            if documentation:
                page.append(new_markdown_cell(f"```{{eval-rst}}\n{documentation}\n```"))
        else:
            if cell.cell_type == "markdown":
                cell.source = with_links(cell.source, names)
            page.append(cell)
    notebook.cells = page
    # a warning's line is the cell it stands in; myst-nb would count 10,000 lines a cell, and eval-rst reads them all, empty
    notebook.metadata["source_map"] = list(range(len(page)))
    return notebook


def add_docments(app, what, name, obj, options, lines):
    "Put the comments beside parameters into the documentation"
    if what not in ("function", "method", "class"):
        return
    try:
        comments = docments(obj, full=False)
    except (TypeError, ValueError, OSError, SyntaxError):
        return
    comments = {k: OPTION.sub(r"``\g<0>``", v) if v else v for k, v in comments.items()}
    lines[:] = [OPTION.sub(r"``\g<0>``", line) for line in lines]
    told = {k: v for k, v in comments.items() if v and not v.startswith(("type: ", "noqa"))}
    described = [f":returns: {v}" if k == "return" else f":param {k}: {v}" for k, v in told.items()]
    lines += ["", *described]


def plain_signature(app, what, name, obj, options, signature, returns):
    "A signature that reads as Python; one that does not is printed in one run, without links"
    if getattr(obj, "_is_protocol", False):  # nobody makes one
        return "", None
    return UNSAID.sub("...", DECLARED.sub(r"\1", signature or "")) or signature, returns


def setup(app):
    app.connect("autodoc-process-docstring", add_docments)
    app.connect("autodoc-process-signature", plain_signature)
    here = crc32(Path(__file__).read_bytes())  # with another nbdoc every page is read again
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": here}


def output_text(output):
    "An output as Markdown, or nothing for a picture"
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"].rstrip()
    text = output.get("text") or data.get("text/plain", "")
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def readme(path=ROOT / "nbs/index.ipynb"):
    "The index notebook as Markdown for GitHub"
    parts = ["<!-- Generated from nbs/index.ipynb by docs/nbdoc.py -->"]
    for cell, directives in shown_cells(nbformat.read(path, as_version=4)):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.source and not {"default_exp", "export"} & directives.keys():
            parts += [f"```python\n{cell.source}\n```", *filter(None, map(output_text, cell.outputs))]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    target, text = ROOT / "README.md", readme()
    if "--check" not in sys.argv:
        target.write_text(text, encoding="utf-8")
    elif target.read_text(encoding="utf-8") != text:
        sys.exit("README.md is not what nbs/index.ipynb says; run `make export`")
