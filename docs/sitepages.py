"""Write the pages of the site that say what the code says: commands, routes, settings, errors, bundle, layers, model cards.

Each function returns the Markdown of one page, made from the code alone; `write` puts them all beside the guide.
`tests/test_site.py` demands that every command, route, setting, error and file of a bundle stands on its page.
"""

import json
import re
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import MISSING, fields
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import SimpleNamespace

import nbformat
import typer
from fastapi import FastAPI
from fastcore.docments import docments
from recipes import RECIPES, bundle_of, project_of

import mlserve
from mlserve.bundle import Bundle, Lineage, Manifest
from mlserve.cli import app as cli
from mlserve.errors import MlserveError
from mlserve.evaluate import LABELS, as_text, from_dict
from mlserve.later import Later
from mlserve.metrics import Metrics
from mlserve.plots import alt_texts
from mlserve.service import create
from mlserve.settings import ALIASES, Keys, Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
FIRST = ("first_model", "own_data", "pull_request")  # Tutorials in this order, then the others
GENERATED = "This page is written from the code each time the site is built."


def cell(text: object) -> str:
    "Text for a cell of a table"
    return " ".join(str(text).split()).replace("|", "\\|")


def code(text: object) -> str:
    "Text as code, for a cell of a table"
    return f"`{cell(text)}`" if str(text) else ""


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    "A Markdown table; `head` has its columns with bars between"
    rule = "|".join("---" for _ in head.split("|"))
    return "\n".join([f"|{head}|", f"|{rule}|", *("|" + "|".join(row) + "|" for row in rows)]) + "\n"


# --- commands


def commands(command=None, words=("mlserve",)) -> Iterator[tuple[str, object]]:
    "(words, command) for each command that does something"
    command = command or typer.main.get_command(cli)
    inner = getattr(command, "commands", {})
    if not inner or command.params:
        yield " ".join(words), command
    for name, child in inner.items():
        yield from commands(child, (*words, name))


def usage(words: str, command) -> str:
    "How a command is written"
    given = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
    return " ".join([words, *given, *(["[options]"] if len(given) < len(command.params) else [])])


def option(parameter) -> tuple[str, ...]:
    "The row of one argument or option"
    if parameter.param_type_name == "argument":
        written = code(parameter.name.upper())
    else:
        written = ", ".join(map(code, [*parameter.opts, *parameter.secondary_opts]))
    default = "" if parameter.default in (None, False, "") else code(parameter.default)
    told = re.sub(r"(?<!\S)--[a-z-]+", r"`\g<0>`", cell(parameter.help or ""))  # else its hyphens become a dash
    return written, told, "must be given" if parameter.required else default


def cli_page() -> str:
    "Every command with its arguments and options"
    parts = [
        "# Command line",
        GENERATED,
        "Each command prints what a person needs; with `--json` it prints JSON for programs. A failure is "
        "one sentence with the "
        "next step, and an exit code that the [table of errors](errors.md) explains. `mlserve COMMAND "
        "--help` says what stands "
        "here.",
    ]
    for words, command in commands():
        parts += [f"## {words}", cell(command.help or ""), f"```sh\n{usage(words, command)}\n```"]
        if command.params:
            parts.append(table("option | what it does | default", [option(p) for p in command.params]))
    return "\n\n".join(parts)


# --- routes


def service_app(settings: Settings) -> FastAPI:
    "The application that would answer with these settings"
    app = create(settings, SimpleNamespace(draining=False), Metrics())
    while not isinstance(app, FastAPI):
        app = app.make() if isinstance(app, Later) else app.app
    return app


def shape(schema: dict) -> str:
    "A JSON schema in a few words"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(map(shape, schema[several]))
    if "properties" in schema:
        return f"object with {', '.join(map(code, schema['properties']))}"
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {shape(schema.get('items', {}))}"
    return schema.get("description") or (" or ".join(kind) if isinstance(kind, list) else kind)


def bodies(content: dict) -> str:
    "The media types of a body and what each holds"
    return "; ".join(f"{code(kind)}: {cell(shape(body.get('schema', {})))}" for kind, body in content.items())


def answered(answer: dict) -> str:
    "What one answer says and holds"
    said = answer["description"].replace("Successful Response", "")  # the framework's words for nothing said
    return ". ".join(filter(None, [cell(said), bodies(answer.get("content", {}))]))


def operation(method: str, path: str, told: dict) -> str:
    "One route"
    parts = [f"### {method.upper()} {path}", cell(told.get("summary", ""))]
    if told.get("description"):
        parts.append(told["description"])
    rows = [(code(p["name"]), p["in"], shape(p.get("schema", {}))) for p in told.get("parameters", [])]
    rows += [("body", "request", bodies(b["content"])) for b in [told.get("requestBody")] if b]
    for status, answer in told["responses"].items():
        if not (
            status == "422" and "HTTPValidationError" in json.dumps(answer)
        ):  # the framework's, which is never sent
            rows.append((status, "answer", answered(answer)))
    parts.append(table("what | where | holds", rows))
    return "\n\n".join(parts)


def schema_part(name: str, schema: dict) -> str:
    "One schema that several routes speak of"
    rows = [(code(key), cell(shape(value))) for key, value in schema.get("properties", {}).items()]
    return f"### {name}\n\n{cell(schema.get('description', ''))}\n\n{table('key | holds', rows)}"


TITLES = {"mlflow": "MLflow", "kserve v1": "KServe v1", "open inference": "Open Inference Protocol"}  # Names of others
BESIDE = {  # what browsers ask for; not in the OpenAPI document
    "/": "The page of the model for browsers, a greeting in JSON for programs",
    "/docs": "All routes, to try out",
    "/openapi.json": "The OpenAPI document of this service",
    "/model/card": "The model card, as a page or as Markdown",
    "/model/plots/{name}.png": "A plot of the evaluation",
    "/static/{name}": "Styles and scripts of the pages",
    "/favicon.ico": "The sign of the pages",
    "/v2/": "The same as `/v2`",
    "/v2/models/{model}/versions/{version}": "The same as without a version, which must be the one that answers",
    "/v2/models/{model}/versions/{version}/ready": "The same with a version",
    "/v2/models/{model}/versions/{version}/infer": "The same with a version",
}


def http_page(settings: Settings) -> str:
    "Every route, from the OpenAPI document of the default model"
    app = service_app(settings)
    document = app.openapi()
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, told in operations.items():
            groups.setdefault((told.get("tags") or ["more"])[0], []).append(operation(method, path, told))
    shown = {route.path for route in app.routes} - document["paths"].keys()
    parts = [
        "# HTTP",
        GENERATED,
        "A running service tells the same about itself at `/docs` and `/openapi.json`, with the fields of "
        "its own model; here it "
        "is the default model's. A client's mistake is answered with 4xx and one JSON shape, "
        "[Error](#error), whose names stand "
        'in the [table of errors](errors.md). Nothing is cast: `30.5`, `"30"` and `true` are not the integer 30. The headers '
        "`x-model-version` and `x-code-version` say who answered.",
    ]
    for name, told in groups.items():
        parts += [f"## {TITLES.get(name, name.capitalize())}", *told]
    parts += [
        "## For browsers and programs",
        table("route | what it is", [(code(p), BESIDE.get(p, "")) for p in sorted(shown)]),
    ]
    parts += ["## Shapes", *(schema_part(*pair) for pair in document["components"]["schemas"].items())]
    return "\n\n".join(parts)


# --- settings


def sections() -> Iterator[tuple[str, type]]:
    "(name, its dataclass) for each section of settings.ini"
    for field in fields(Settings):
        if field.default_factory is not MISSING:
            yield field.name, field.default_factory


def kind(field) -> str:
    "What a setting's value is, in a word"
    known = {int: "whole number", float: "number", str: "text", Path: "path", Keys: "keys"}
    return known.get(field.type, str(field.type))


def settings_page() -> str:
    "Every setting with its variable and default"
    others = {variable: name for name, variable in ALIASES.items()}
    parts = [
        "# Settings",
        GENERATED,
        "They stand in `settings.ini`, found in the working folder or above it. The environment overrides each of them: "
        "`MLSERVE_SECTION_KEY`. What is unknown or cannot be read is refused with its place. Secrets belong "
        "in the environment.",
    ]
    for name, section in sections():
        rows = []
        for field in fields(section):
            variable = f"MLSERVE_{name}_{field.name}".upper()
            also = f" or {code(others[variable])}" if variable in others else ""
            default = code(field.default) if field.default not in ("", ()) else "none"
            rows.append((code(field.name), cell(field.metadata["doc"]), kind(field), default, code(variable) + also))
        told = (section.__doc__ or "").partition(": ")[2]
        head = "key | what it sets | kind | default | variable"
        parts += [f"## [{name}]", told[:1].upper() + told[1:] + ".", table(head, rows)]
    return "\n\n".join(parts)


# --- errors


def errors() -> list[type[MlserveError]]:
    "Every error of the package"
    for module in walk_packages(mlserve.__path__, "mlserve."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    found, waiting = set(), [MlserveError]
    while waiting:
        found.add(error := waiting.pop())
        waiting += error.__subclasses__()
    ours = [e for e in found if e.__module__.startswith("mlserve.") and not e.__name__.startswith("_")]
    return sorted(ours, key=lambda e: e.__name__)


def name_of(error: type[MlserveError]) -> str:
    "The name programs know an error by"
    return MlserveError.kind.fget(error.__new__(error))


def errors_page() -> str:
    "Every error with its status and exit code"
    rows = [
        (code(name_of(e)), cell(e.__doc__ or ""), code(e.status), code(e.exit_code),
         f"{{py:obj}}`{e.__module__[8:]}.{e.__name__} "
         f"<{e.__module__}.{e.__name__}>`")
        for e in errors()
    ]  # fmt: skip
    return "\n\n".join([
        "# Errors",
        GENERATED,
        "Every failure is one class, one sentence and one way out. Programs know it by its name, which is "
        "`error` in the JSON of "
        "an answer and of `--json`; HTTP answers with its status, a command ends with its exit code. Exit code 0 is success, "
        "2 also a command that was written wrongly (`usage` in JSON), 130 one that was interrupted, and 141 one whose reader "
        "went away.",
        table("name | what happened | status | exit code | class", rows),
    ])  # fmt: skip


# --- the bundle

FILES = {
    "manifest.json": "All that is known about the bundle, and the size and SHA-256 of every other file",
    "contract.json": "What a row and an answer look like",
    "pipeline.skops": "The fitted scikit-learn pipeline, stored by skops; no pickle",
    "plan.bin": "The folded scorer as plain data; missing where folding could not be proven",
    "probe.json": "Frozen rows with their answers, which every process scores before it says it is ready",
    "lineage.json": "How the pipeline was built, a sketch of the training rows, and how far its answers move by chance",
    "held_out.json": "The answers to the held-out rows, for the comparison with the next bundle",
    "reference.json": "Summaries of what training saw, which drift is measured against",
    "metrics.json": "The metrics with their intervals, flat",
    "report.json": "Everything that was measured: metrics, slices, curves",
    "slice_output.txt": "The metrics of each slice, for people",
    "model_card.md": "The model card",
    "plots/*.png": "The report, drawn",
}


def told_of(file: str) -> str:
    "What a file of a bundle is; empty if nobody said"
    return next((told for pattern, told in FILES.items() if fnmatch(file, pattern)), "")


def dataclass_table(kind: type) -> str:
    "The fields of a dataclass with the comments beside them"
    comments = docments(kind)
    rows = [
        (code(f.name), code(getattr(f.type, "__name__", f.type)), cell(comments.get(f.name) or ""))
        for f in fields(kind)
    ]
    return table("key | type | holds", rows)


def bundle_page(bundle: Bundle) -> str:
    "The files of a bundle and what the manifest says"
    rows = [("`manifest.json`", "", told_of("manifest.json"))]
    rows += [(code(name), f"{size:,}", told_of(name)) for name, (size, _) in bundle.manifest.files.items()]
    return "\n\n".join([
        "# Bundle",
        GENERATED,
        f"One released model is one folder of format {bundle.manifest.format}. Every file is listed in the "
        "manifest with its size "
        "and hash and is verified before it is used; a file that is not listed is not read. The sizes are those of the census "
        "model.",
        table("file | bytes | what it is", rows),
        "## manifest.json", dataclass_table(Manifest),
        "## lineage, in the manifest", dataclass_table(Lineage),
    ])  # fmt: skip


# --- layers

LAYERS = {
    "0": "Words that everything shares",
    "1": "From data to a proven scorer",
    "2": "Comparing, judging, storing",
    "3": "Serving",
    "4": "The loop, deployment, commands",
}


def notebooks() -> list[tuple[str, str, str, str]]:
    "(number, page, title, summary) of each notebook of the library"
    found = []
    for path in sorted(NBS.glob("[0-9]*_*.ipynb")):
        text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells[:3] if c.cell_type == "markdown")
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        summary = re.search(r"^> (.+)$", text, re.MULTILINE)
        number, _, name = path.stem.partition("_")
        found.append((number, f"{name}.ipynb", title[1] if title else name, summary[1] if summary else ""))
    return found


def guide_page() -> str:
    "The table of layers: every notebook by number"
    parts = [
        "# Guide",
        "The library is its notebooks. Each one makes one module, tests it and explains it; its number is its layer, and it "
        "imports only lower numbers. Read from the top, they tell the loop in its own order.",
    ]
    for digit, heading in LAYERS.items():
        rows = [(n, f"[{cell(t)}]({page})", cell(told)) for n, page, t, told in notebooks() if n[0] == digit]
        parts += [f"## {digit}x: {heading}", table("nb | page | what it is for", rows)]
    listed = "\n".join(page.removesuffix(".ipynb") for _, page, _, _ in notebooks())
    parts.append(f"```{{toctree}}\n:hidden:\n\n{listed}\n```")
    return "\n\n".join(parts) + "\n"


def titles(under: str) -> list[tuple[str, str, str]]:
    "(page, title, summary) of each notebook in a folder of nbs; those in FIRST come first"
    found = []
    for path in sorted((NBS / under).glob("*.ipynb"), key=lambda p: (*(p.stem != name for name in FIRST), p.stem)):
        text = nbformat.read(path, as_version=4).cells[0].source
        heading, summary = (re.search(rf"^{mark} (.+)$", text, re.MULTILINE) for mark in "#>")
        name = re.sub(r"^\d+_", "", path.stem)
        found.append((name, heading[1] if heading else name, summary[1] if summary else ""))
    return found


def lessons() -> str:
    "The tutorials as cards, for the front page"
    cards = [
        f":::{{grid-item-card}} {title}\n:link: guide/tutorials/{page}\n:link-type: doc\n\n{told}\n:::"
        for page, title, told in titles("tutorials")
    ]
    return "\n".join(["::::{grid} 1 2 3 3", ":gutter: 3", "", *cards, "::::", ""]) if cards else "\n"


def section_page(title: str, told: str, under: str) -> str:
    "The index of a folder of notebooks"
    found = titles(under)
    rows = [(f"[{cell(heading)}]({page}.ipynb)", cell(summary)) for page, heading, summary in found]
    listed = "\n".join(page for page, _, _ in found)
    return f"# {title}\n\n{told}\n\n{table('page | what it is for', rows)}\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"


# --- model cards


def card_page(bundle: Bundle) -> str:
    "The model card with its plots, each with its main numbers in words"
    words = alt_texts(from_dict(json.loads(bundle.read("report.json"))))
    drawn = [f"![{cell(words[file])}]({bundle.manifest.name}/plots/{file})" for file in sorted(words)]
    return "\n\n".join([bundle.read("model_card.md").decode(), "## Plots", *drawn]) + "\n"


def models_page(bundles: list[Bundle]) -> str:
    "The recipes that ship, and how good they are"
    rows = []
    for bundle in bundles:
        m = bundle.manifest
        report = from_dict(json.loads(bundle.read("report.json")))
        judged = report.metrics[report.primary]
        good = f"{LABELS[report.primary]} {as_text(judged.value)} ({as_text(judged.low)} to {as_text(judged.high)})"
        engine = "plan" if m.engine == "plan" else "scikit-learn"
        notebook = f"[notebook](../guide/examples/{m.name}.ipynb)"
        task = bundle.contract.output.task
        rows.append((f"[{m.name}]({m.name}.md)", task, good, engine, notebook))
    names = "\n".join(b.manifest.name for b in bundles)
    return (
        "# Models\n\nThe model cards of the recipes that ship, of models trained when this site was built.\n\n"
        + table("card | task | on held-out rows (95 % interval) | answered by | recipe", rows)
        + f"\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )


# --- figures of the design page


def folding_figures() -> str:
    "How many of the stored pipelines fold, from the table that the tests hold"
    told = json.loads((ROOT / "tests/fold_coverage.json").read_text(encoding="utf-8"))
    hows = sorted({row["how"] for row in told})
    groups = list(dict.fromkeys(row["group"] for row in told))
    count = {(g, h): sum(r["group"] == g and r["how"] == h for r in told) for g in groups for h in hows}
    rows = [(g, *(str(count[g, h]) for h in hows)) for g in groups]
    rows.append(("all", *(str(sum(count[g, h] for g in groups)) for h in hows)))
    return table(" | ".join(["pipelines with", *hows]), rows)


def budgets() -> str:
    "What a deployment may take, from settings.ini"
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    told = {f.name: f.metadata["doc"] for f in fields(dict(sections())["slug"])}
    return table("budget | at most", [(cell(told[key]), value) for key, value in parser["slug"].items()])


def benchmark_page() -> str:
    "What the last whole run of the benchmark found"
    found = (ROOT / "bench/results.md").read_text(encoding="utf-8")
    return found.replace("\n\n", "\n\nWritten by `make bench`, which measures it anew on your machine.\n\n", 1)


# --- pictures at night

NIGHT = {  # A colour of a picture by day -> the one that is as easy to see at night
    **{"#fbfaf7": "#1b212a", "#fff": "#222832", "#3b4a5a": "#b9c4d0"},
    **{"#0072B2": "#6cb8ea", "#B34700": "#f09a5d", "#00664B": "#5cc9a7"},
}


def at_night(picture: str) -> str:
    "A drawing on a dark ground; a colour that nobody gave a night to is an error"
    return re.sub(r'"(#[0-9a-fA-F]{3,6})"', lambda found: f'"{NIGHT[found[1]]}"', picture)


def by_day_and_night(page: str) -> str:
    "A page whose pictures have another one for the night"
    pairs = {"images/page.png": "images/page_dark.png", "images/loop.svg": "generated/loop_dark.svg"}

    def both(found: re.Match[str]) -> str:
        if found[2] not in pairs:
            return found[0]
        shown = ((found[2], "only-light"), (pairs[found[2]], "only-dark"))
        return "\n\n".join(f"```{{image}} {file}\n:alt: {found[1]}\n:class: {kind}\n```" for file, kind in shown)

    return re.sub(r"^!\[(.*)\]\((.*)\)$", both, page, flags=re.MULTILINE)


# --- all of it


def write(docs: Path) -> None:
    "Write every generated page below `docs`"
    bundles = [bundle_of(name) for name in RECIPES]
    census = load_settings(project_of("census"), environ={})
    pages = {
        "guide/index.md": guide_page(),
        "guide/examples/index.md": section_page("Recipes that ship", "Each is a notebook to copy from.", "examples"),
        "guide/tutorials/index.md": section_page(
            "Tutorials", "Lessons to follow from top to bottom; every one is run by the tests.", "tutorials"
        ),
        "reference/cli.md": cli_page(),
        "reference/http.md": http_page(census),
        "reference/settings.md": settings_page(),
        "reference/errors.md": errors_page(),
        "reference/benchmark.md": benchmark_page(),
        "reference/bundle.md": bundle_page(next(b for b in bundles if b.manifest.name == "census")),
        "models/index.md": models_page(bundles),
        "generated/folding.md": folding_figures(),
        "generated/budgets.md": budgets(),
        "generated/lessons.md": lessons(),
        "generated/loop_dark.svg": at_night((docs / "images/loop.svg").read_text(encoding="utf-8")),
    }
    pages |= {f"models/{b.manifest.name}.md": card_page(b) for b in bundles}
    front = (docs / "guide/front.md").read_text(encoding="utf-8")
    front = front.replace("# mlserve\n", "# Start\n", 1).replace("\n## Start\n", "\n## In one command\n", 1)
    pages["start.md"] = by_day_and_night(front)
    for name, text in pages.items():
        put(docs / name, text.encode())
    for bundle in bundles:
        for file in bundle.manifest.files:
            if file.startswith("plots/"):
                put(docs / "models" / bundle.manifest.name / file, bundle.read(file))


def put(path: Path, content: bytes) -> None:
    "Write a file unless it is the same, so that only what changed is built again"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)
