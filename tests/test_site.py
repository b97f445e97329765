"The site says everything that the code knows, and nothing that it does not"

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from functools import cache
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from mlserve.bundle import read_bundle
from mlserve.settings import ALIASES, Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = DOCS / "_build/html"
sys.path.append(str(DOCS))
import nbdoc  # noqa: E402
import recipes  # noqa: E402
import sitepages  # noqa: E402

WRITTEN = [*sorted(DOCS.glob("*.md")), *sorted((DOCS / "howto").glob("*.md")), ROOT / "README.md"]
WRITTEN = [p for p in WRITTEN if p.name not in ("start.md", "changelog.md", "contributing.md")]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def rows(page):
    "The cells of each row of each table of a page"
    lines = [line for line in page.splitlines() if line.startswith("|") and not set(line) <= set("|- :")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# --- what is written from the code


def test_every_command_and_option_is_documented():
    page = sitepages.cli_page()
    explained = {row[0]: row[1] for row in rows(page)}
    found = list(sitepages.commands())
    assert {"mlserve train", "mlserve serve", "mlserve compare", "mlserve slug", "mlserve slug bake"} <= {
        w for w, _ in found
    }
    for words, command in found:
        assert f"\n## {words}\n\n{sitepages.cell(command.help)}\n" in page and command.help, words
        for parameter in command.params:
            written = sitepages.option(parameter)[0]
            assert explained.get(written), f"{words} {written} has no help"


def test_every_route_is_documented(projects):
    settings = load_settings(projects["diabetes"], environ={})
    app, page = sitepages.service_app(settings), sitepages.http_page(settings)
    beside = {row[0].strip("`"): row[1] for row in rows(page) if len(row) == 2}
    described = app.openapi()["paths"]
    assert {"/predict", "/feedback", "/v2", "/invocations"} <= described.keys()
    for route in app.routes:
        for method in route.methods - {"HEAD"}:
            if route.path in described:
                told = described[route.path][method.lower()]
                assert told.get("summary") and f"### {method} {route.path}\n\n{told['summary']}" in page, route.path
            else:
                assert beside.get(route.path), f"{route.path} is not explained in sitepages.BESIDE"
    assert not sitepages.BESIDE.keys() - {route.path for route in app.routes}


def test_every_setting_is_documented():
    page = sitepages.settings_page()
    explained = [row for row in rows(page) if row[0].startswith("`")]
    known = [(s, f) for s, kind in sitepages.sections() for f in fields(kind)]
    assert len(explained) == len(known) and len(list(sitepages.sections())) == len(fields(Settings)) - 1
    for row, (section, field) in zip(explained, known, strict=True):
        assert row[0] == f"`{field.name}`" and row[1] and f"`MLSERVE_{section}_{field.name}`".upper() in row[4].upper()
    assert all(f"`{name}`" in page for name in ALIASES)


def test_every_error_is_documented():
    explained = {re.search(r"<(.+)>", row[4])[1]: row for row in rows(sitepages.errors_page())[1:]}
    found = sitepages.errors()
    assert {"InvalidRows", "BadSettings", "BadBundle", "NoBundle"} <= {e.__name__ for e in found}
    for error in found:
        row = explained[f"{error.__module__}.{error.__name__}"]
        assert row[0] == f"`{sitepages.name_of(error)}`" and row[1] == sitepages.cell(error.__doc__) != "", error
        assert (row[2], row[3]) == (f"`{error.status}`", f"`{error.exit_code}`")


def test_every_file_of_a_bundle_is_documented(project):
    bundle = read_bundle(next((project / "models").iterdir()))
    assert [file for file in bundle.manifest.files if not sitepages.told_of(file)] == []
    page = sitepages.bundle_page(bundle)
    for kind in (sitepages.Manifest, sitepages.Lineage):
        assert all(f"`{field.name}`" in page for field in fields(kind))


def test_the_table_of_models_says_how_good_each_is(project):
    bundle = read_bundle(next((project / "models").iterdir()))
    told = rows(sitepages.models_page([bundle]))[1][2]
    name, value, low, high = re.fullmatch(r"(.+) (\S+) \((\S+) to (\S+)\)", told).groups()
    assert name in {"ROC AUC", "root mean squared error", "log loss"} and float(low) <= float(value) <= float(high)
    assert f"| {name} | {value} | {low} to {high} |" in (bundle.folder / "model_card.md").read_text(encoding="utf-8")


def test_every_notebook_stands_in_the_table_of_layers_once():
    page = sitepages.guide_page()
    there = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
    found = [row for row in rows(page) if row[0].isdigit()]
    assert sorted(row[0] for row in found) == [path.name[:2] for path in there]
    for path in there:
        row = next(row for row in found if f"]({path.stem[3:]}.ipynb)" in row[1])
        assert row[0] == path.name[:2] and row[2], f"{path.name} has no summary below its title"


# --- what the site is built from


def test_a_bundle_is_used_again_while_what_it_was_made_from_is_the_same(projects, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "KEPT", tmp_path)
    monkeypatch.setattr(recipes, "train", lambda settings: pytest.fail("it was trained anew"))
    for _ in range(2):  # the second time in place of the first
        recipes.keep(projects["wine"], "wine")
        assert recipes.bundle_of("wine").manifest == read_bundle(projects["wine"] / "models/wine").manifest
    assert [path.name for path in tmp_path.iterdir()] == ["wine"]
    monkeypatch.setattr(recipes, "made_from", lambda name: "something else")
    with pytest.raises(pytest.fail.Exception, match="trained anew"):
        recipes.bundle_of("wine")


@pytest.mark.slow
def test_training_imports_the_modules_that_its_bundle_is_known_by(tmp_path):
    (tmp_path / "settings.ini").write_text("[model]\nrecipe = mlserve.examples.wine:recipe\n")
    program = (
        "import sys; from pathlib import Path; from mlserve.retrain import train; from mlserve.settings import load_settings;"
        "train(load_settings(Path.cwd(), environ={}));"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('mlserve.') and m.__file__.endswith('.py')))"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = {Path(path) for path in told.stdout.split() if not path.endswith("__init__.py")}
    assert found <= set(recipes.modules_of("wine")) and len(found) > 20


def test_a_cell_of_a_page_is_one_line_for_warnings():
    "Else documentation is read below thousands of empty lines for each cell before it, and a build takes minutes"
    page = nbdoc.read((ROOT / "nbs/21_gate.ipynb").read_text(encoding="utf-8"), "mlserve")
    assert page.metadata["source_map"] == list(range(len(page.cells)))


def test_a_picture_in_a_notebook_has_its_words():
    mute = [
        f"{path.name}: {cell.source.splitlines()[0]}"
        for path in (ROOT / "nbs").rglob("*.ipynb")
        if not any(part.startswith(".") for part in path.parts)
        for cell in nbformat.read(path, as_version=4).cells
        if any("image/png" in out.get("data", {}) for out in cell.get("outputs", ()))
        if not re.match(r"#\| alt: (\S+ ){3}", cell.source)
    ]
    assert mute == []


# --- what is written by hand


def shell_lines():
    "(page, line) for each command of mlserve or make in a page written by hand"
    for page in WRITTEN:
        for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
            if language in ("sh", "yaml"):
                for line in block.replace("\\\n", " ").splitlines():
                    if found := re.search(r"(?:^|[\s:])((?:mlserve|make) .*)", line.partition(" #")[0]):
                        yield page.name, found[1]


def test_every_command_that_a_page_shows_can_be_given():
    known, shown = dict(sitepages.commands()), list(shell_lines())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert len(shown) > 10
    for page, line in shown:
        words = shlex.split(re.split(r"\s(?:\||>|&&|\d>)", line)[0])
        if words[0] == "make":
            assert words[1] in targets, f"{page}: {line}"
            continue
        named = max((w for w in known if f"{' '.join(words)} ".startswith(f"{w} ")), key=len, default=None)
        assert named, f"{page}: {line}"
        options = {o for p in known[named].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used <= options, f"{page}: {line}"


def test_every_setting_that_a_page_names_is_one():
    known = {f"MLSERVE_{s}_{f.name}".upper() for s, kind in sitepages.sections() for f in fields(kind)}
    for page in WRITTEN:
        assert set(re.findall(r"\bMLSERVE_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8"))) <= known, page.name


def test_every_section_that_a_page_sets_is_one():
    from mlserve.settings import from_file

    for page in WRITTEN:
        for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
            if language == "ini":
                path = Path(ROOT / "docs/_build/shown.ini")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block, encoding="utf-8")
                try:
                    assert list(from_file(path)), page.name
                finally:
                    path.unlink()


# --- the built site: `make docs`


class Links(HTMLParser):
    "What a page refers to, and the places in it that can be referred to"

    def __init__(self):
        super().__init__()
        self.links, self.loaded, self.ids, self.pictures = [], [], set(), []

    def handle_starttag(self, tag, given):
        told = dict(given)
        self.ids |= {told.get("id"), told.get("name")}
        if tag == "a" and told.get("href"):
            self.links.append(told["href"])
        if tag in ("img", "script", "iframe", "source") and told.get("src"):
            self.loaded.append(told["src"])
        if tag == "link" and told.get("href") and told.get("rel") != "canonical":
            self.loaded.append(told["href"])
        if tag == "img":
            self.pictures.append((told.get("src"), told.get("alt")))


@cache
def read(path):
    found = Links()
    found.feed(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def pages():
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built; make docs builds it")
    return sorted(page for page in SITE.rglob("*.html") if "_static" not in page.parts)  # which holds templates


def broken(page, link):
    "Why a link leads nowhere; empty if it leads somewhere, or out of the site"
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return "no such file"
    known = not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in read(target).ids
    return "" if known else "no such place in the page"


@pytest.mark.site
def test_every_link_leads_somewhere(pages):
    assert len(pages) > 50
    wrong = {
        (str(page.relative_to(SITE)), link): why
        for page in pages
        for link in [*read(page).links, *read(page).loaded]
        if (why := broken(page, link))
    }
    assert wrong == {}


@pytest.mark.site
def test_no_page_loads_anything_from_another_host(pages):
    outside = [(page.name, src) for page in pages for src in read(page).loaded if urlsplit(src).netloc]
    assert outside == []
    styles = [
        path for path in SITE.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//", path.read_text(encoding="utf-8"))
    ]
    assert styles == []


@pytest.mark.site
def test_every_picture_says_what_it_shows(pages):
    shown = [(page.name, src, alt or "") for page in pages for src, alt in read(page).pictures if "_static" not in src]
    assert [told for told in shown if len(told[2].split()) < 3 or told[2].endswith(".png")] == [] and len(shown) > 40


def words_of(text):
    "Neighbouring words"
    found = re.findall(r"[^\W\d_]{2,}", text)
    return set(pairwise(found))


def text_of(page):
    "What a page says, but for its code"
    return unescape(re.sub(r"<pre.*?</pre>|<[^>]+>", "", page.read_text(encoding="utf-8"), flags=re.S))


def paragraphs_of(notebook):
    "The prose of a notebook, without code and the targets of links"
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield from re.split(r"\n\s*\n", re.sub(r"```.*?```|(?<=\])\([^)]*\)", "", cell.source, flags=re.S))


@pytest.mark.site
def test_no_prose_of_a_notebook_is_lost_on_its_page(pages):
    "Markdown has many ways to hide a line"
    held, lost = 0, []
    for notebook in set((ROOT / "nbs").rglob("[!.]*.ipynb")) - {ROOT / "nbs/index.ipynb"}:  # which is the page Start
        named = notebook.relative_to(ROOT / "nbs").with_name(re.sub(r"^\d+_", "", notebook.stem) + ".html")
        if (page := SITE / "guide" / named) in pages:
            shown, told = words_of(text_of(page)), [words_of(part) for part in paragraphs_of(notebook)]
            lost += [(page.name, words) for part in told for words in part - shown]
            held += sum(map(len, told))
    assert lost == [] and held > 10_000


@pytest.mark.site
def test_no_page_shows_what_was_not_rendered(pages):
    odd = re.compile(r"object at 0x|(?<!\w)–[a-z]|Traceback \(most recent|\|---\||type: ignore|<function")
    texts = {str(page.relative_to(SITE)): text_of(page) for page in pages if "_modules" not in page.parts}
    assert {name: found[0] for name, text in texts.items() if (found := odd.search(text))} == {}


@pytest.mark.site
def test_no_page_shows_a_directive_or_a_role_as_text(pages):
    raw = re.compile(r"#\|\s*(export|hide)|\{py:obj\}|:param |```\{")
    wrong = [
        p.name
        for p in pages
        if "_modules" not in p.parts  # in code they may be spoken of
        and raw.search(re.sub(r"<(pre|code)\b.*?</\1>", "", p.read_text(encoding="utf-8"), flags=re.S))
    ]
    assert wrong == []
