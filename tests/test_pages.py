"""The pages as bytes over HTTP: who gets what, what is kept, and that no name becomes markup."""

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.app import create_app
from mlserve.bundle import Lineage, Manifest, dump, write_bundle
from mlserve.contract import Contract, Field, Output, to_json
from mlserve.pages import ASSETS, add_pages, card_html, in_script, metric_table, page_data, sentence, wants_html
from mlserve.score import Model, Scored
from mlserve.serving import Service
from mlserve.wire import read_json

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PAGES = ("/", "/docs", "/model/card")
UGLY = "</script><script>alert(1)</script><b>\"&'$name ${data}"


class Quiet:
    draining = False

    def observe(self, route, status, seconds, method="POST", rows=0):
        pass

    def model(self, name, version, engine, code):
        pass

    def text(self):
        return b""


@pytest.fixture
def make(tmp_path):
    def model(name="tall", version="1.0.0", field="height", target="tall", files=None):
        contract = Contract((Field(field, "number", example=1.0),), Output("binary", target, ("no", "yes"), "yes"))
        lineage = Lineage("example:recipe", "5f2c", 6, 1, {}, 0, "0.1.0", {})
        given = {"model_card.md": b"# Card\n", "plots/slices.png": b"\x89PNG"} if files is None else files
        stored = {"contract.json": dump(to_json(contract)), **given}
        bundle = write_bundle(tmp_path / name, Manifest(name, version, "sklearn", lineage, {"accuracy": 0.9}), stored)
        return Model(bundle, lambda rows: [Scored(1.0, (0.25, 0.75)) for _ in rows])

    return model


@pytest.fixture
def visit(make):
    def client(model=None):
        service = Service(model or make(), Quiet(), Quiet())
        app = create_app(service)
        add_pages(app, service)
        return TestClient(app)

    return client


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html", True),
        ("text/*", True),
        ("TEXT/HTML;Q=0.9, application/json;q=0.8", True),
        ("text/html, */*;q=0.1", True),
        ("text/html, */*", True),
        ("text/html;q=0.5, */*", False),
        ("text/html;q=0, */*;q=0.1", False),
        ("application/json, text/html", False),
        ("application/*, text/*;q=0.9", False),
        ("image/png", False),
        (";;,q=,text/html;q=x,,", True),
    ],
)
def test_html_is_for_those_who_like_it_better(visit, accept, html):
    assert wants_html(accept) is html
    answered = visit().get("/", headers={"accept": accept})
    assert answered.headers["content-type"].startswith("text/html" if html else "application/json")
    assert "accept" in answered.headers["vary"].lower().split(", ")


@given(st.text())
def test_no_accept_header_is_too_odd(accept):
    assert wants_html(accept) in (True, False)


def test_a_program_is_greeted(visit):
    assert visit().get("/").json() == {
        "message": "Predicts tall: no or yes. POST a row to /predict.",
        "model": "tall",
        "version": "1.0.0",
        "predict": "/predict",
        "docs": "/docs",
    }


@pytest.mark.parametrize("path", ["/", *PAGES, "/model/plots/slices.png", *(f"/static/{name}" for name in ASSETS)])
def test_who_comes_again_gets_no_bytes(visit, path):
    client = visit()
    first = client.get(path, headers=BROWSER)
    assert first.status_code == 200 and first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}'):
        again = client.get(path, headers=BROWSER | {"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers=BROWSER | {"if-none-match": '"other"'}).content == first.content


@pytest.mark.parametrize("name", ASSETS)
def test_files_are_compressed_for_those_who_can_read_it(visit, name):
    client = visit()
    place, _, folder = ASSETS[name].partition(".")
    data = (files(place) / folder / name).read_bytes()
    packed = client.get(f"/static/{name}", headers={"accept-encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip" and packed.content == data
    assert int(packed.headers["content-length"]) < len(data)
    for refused in ("identity", "gzip;q=0", ""):
        plain = client.get(f"/static/{name}", headers={"accept-encoding": refused})
        assert "content-encoding" not in plain.headers and plain.content == data
    type_ = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
    assert packed.headers["content-type"].partition(";")[0] == type_
    assert packed.headers["x-content-type-options"] == "nosniff"


def test_only_the_right_tag_makes_an_answer_last(visit):
    client = visit()
    tag = client.get("/static/page.js").headers["etag"].strip('W/"')
    assert client.get(f"/static/page.js?v={tag}").headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.get("/static/page.js?v=0123").headers["cache-control"] == "no-cache"
    assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize(
    "path",
    [
        "/static/layout.html",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/",
        "/model/plots/roc.png",
        "/model/plots/..%2f..%2fmanifest.json.png",
        "/model/plots/slices.svg",
        "/model/plots/",
    ],
)
def test_nothing_else_can_be_asked_for(visit, path):
    answered = visit().get(path)
    assert answered.status_code == 404
    assert set(answered.json()) == {"error", "message", "fields"} and answered.json()["error"] == "not_found"


def test_a_plot_beside_the_manifest_is_not_shown(visit, make):
    model = make(files={})
    (model.bundle.folder / "plots").mkdir()
    (model.bundle.folder / "plots" / "stray.png").write_bytes(b"\x89PNG")
    answered = visit(model).get("/model/plots/stray.png")
    assert answered.json()["message"] == "the model tall has no such plot; it has none"


def test_a_model_without_a_card_has_no_link_to_it(visit, make):
    client = visit(make(files={}))
    answered = client.get("/model/card")
    assert answered.status_code == 404
    assert answered.json()["message"] == "the model tall has no card; `mlserve train` writes one"
    assert "model/card" not in client.get("/", headers=BROWSER).text
    assert "model/card" in visit().get("/", headers=BROWSER).text


def test_the_model_of_the_moment_is_shown(make):
    service = Service(make(), Quiet(), Quiet())
    app = create_app(service)
    add_pages(app, service)
    client = TestClient(app)
    before = {path: client.get(path, headers=BROWSER).headers["etag"] for path in PAGES}
    service.model = make("small", "2.0.0", files={"model_card.md": b"# Another\n"})
    for path in PAGES:
        answered = client.get(path, headers=BROWSER | {"if-none-match": before[path]})
        assert answered.status_code == 200 and "2.0.0" in answered.text
    assert client.get("/").json()["model"] == "small"


class Seen(HTMLParser):
    "Which elements, attributes and links a page has"

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.attributes, self.data = [], [], set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.data += data if self.tags[-1:] == ["script"] else ""


@pytest.mark.parametrize("path", PAGES)
def test_pages_obey_their_own_policy(visit, path):
    client = visit()
    answered = client.get(path, headers=BROWSER)
    policy = dict(part.split(" ", 1) for part in answered.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert "unsafe" not in str(policy) and "http" not in str(policy)
    seen = Seen(answered.text)
    assert not {a for a in seen.attributes if a.startswith("on") or a == "style"} and "style" not in seen.tags
    scripts = re.findall(r"<script([^>]*)>", answered.text)
    assert all("src=" in script or 'type="application/json"' in script for script in scripts)
    links = [link for link in seen.links if not link.startswith("#")]
    assert len(links) >= 5 and not [link for link in links if link.startswith(("http", "/"))]
    for link in links:
        target = client.get(str(answered.url.join(link)), headers=BROWSER)
        assert target.status_code == 200
        lasts = "immutable" in target.headers.get("cache-control", "")
        assert lasts is ("/static/" in link)


def test_no_name_becomes_markup(visit, make):
    plain = visit(make(field="height", target="tall"))
    ugly = visit(make("ugly", field=UGLY, target=UGLY))
    for path in PAGES:
        known, seen = (Seen(client.get(path, headers=BROWSER).text) for client in (plain, ugly))
        assert seen.tags == known.tags and seen.attributes == known.attributes
    data = read_json(Seen(ugly.get("/", headers=BROWSER).text).data.strip().encode())
    assert data["fields"][0]["name"] == data["target"] == UGLY


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200)
def test_any_name_survives_the_way_into_a_script(name):
    written = in_script({name: [name]})
    assert "<" not in written and written.isascii()
    assert read_json(written.encode()) == {name: [name]}


@pytest.mark.parametrize(
    "markdown",
    [
        "<script>alert(1)</script>",
        "<b onclick=alert(1)>x</b>",
        "[x](javascript:alert(1))",
        "![x](data:text/html;base64,PHNjcmlwdD4=)",
        '[x](/y "\\" onmouseover=alert(1)")',
        "<https://example.com/\"onclick='alert(1)'>",
    ],
)
def test_a_card_can_run_nothing(markdown):
    seen = Seen(card_html(markdown))
    assert "script" not in seen.tags and "b" not in seen.tags
    assert not {a for a in seen.attributes if a.startswith("on")}
    assert not [link for link in seen.links if link.startswith(("javascript:", "data:"))]


def test_metrics_are_put_together():
    flat = {
        "rows": 10,
        "mae": 2.0,
        "mae_low": 1.5,
        "mae_high": 2.5,
        "low": 7.0,
        "share_low": 0.1,
        "baseline_mae": 4.0,
        "slice/sex=Male/mae": 3.0,
    }
    table = metric_table(flat)
    assert [(m["name"], m["value"], m["low"], m["high"], m["baseline"]) for m in table] == [
        ("mean absolute error", 2.0, 1.5, 2.5, 4.0),
        ("low", 7.0, None, None, None),
        ("share low", 0.1, None, None, None),
    ]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (Output("binary", "rich", (False, True), True), "Predicts rich: false or true."),
        (Output("multiclass", "kind", ("a", "b", "c")), "Predicts kind: a, b or c."),
        (Output("multiclass", "digit", tuple(range(6))), "Predicts digit: one of 6 classes."),
        (Output("regression", "hours"), "Predicts hours."),
    ],
)
def test_what_a_model_answers_is_one_sentence(output, said):
    assert sentence(output) == said


def test_the_slices_come_first_among_the_plots(make):
    drawn = {f"plots/{name}.png": name.encode() for name in ("calibration", "slices", "roc")}
    data = page_data(make(files=drawn | {"plots/deep/x.png": b"", "plots/notes.txt": b""}))
    assert [plot["name"] for plot in data["plots"]] == ["slices", "calibration", "roc"]


def test_every_file_of_the_pages_is_a_template_or_can_be_asked_for():
    ours = {path.name for path in (files("mlserve") / "static").iterdir()}
    assert {name for name in ours if not name.endswith(".html")} == {n for n in ASSETS if ASSETS[n] == "mlserve.static"}
